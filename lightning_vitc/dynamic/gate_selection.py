"""Differentiable choice of a gate network for every branch (as in DARTS, Liu et al., 2019).

L blocks, K candidates. What the paper leaves open is ours: the logits of the candidates are mixed, not their
decisions, and one candidate alone (K = 1) is the ablation without a search.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_vitc.dynamic.gate_places import stacked_state
from lightning_vitc.dynamic.gate_stack import GateStack
from lightning_vitc.dynamic.late_gradients import Deciding
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.shapes import gate_macs


class GateSelection(nn.Module):
    """The candidates of every branch and their architecture parameters.

    Args:
        depth: L.
        dim: of the tokens.
        names: of the K candidates.
        temperature: of the softmax over the architecture parameters.
        costs: of the candidates; default: their MACs.
    """

    chosen: Tensor
    costs: Tensor

    def __init__(self, depth: int, dim: int, names: Sequence[str], temperature: float = 1.0,
                 costs: Sequence[int] | None = None):  # fmt: skip
        super().__init__()
        self.names, self.dim, self.temperature = tuple(names), dim, temperature
        self.stack = GateStack([[GateNetwork(name, dim).start() for name in names] for _ in range(2 * depth)])
        self.architecture = nn.Parameter(torch.zeros(depth, 2, len(names)))
        self.register_buffer("chosen", torch.zeros_like(self.architecture))  # one-hot from when it is frozen
        of_each = [gate_macs(name, dim) for name in names] if costs is None else costs
        self.register_buffer("costs", torch.tensor(of_each, dtype=torch.float), persistent=False)

    def mixture(self, frozen: bool) -> Tensor:
        """Shares of the candidates [L, 2, K]: a softmax, or the choice; the parameters always get a gradient.

        So that under DDP every parameter takes part in every step.
        """
        if frozen:
            return self.chosen + 0 * self.architecture
        return (self.architecture / self.temperature).softmax(-1)

    def deciding(self, mixture: Tensor) -> Deciding:
        """The gates of all branches, attention and MLP block by block."""
        return Deciding(self.stack, self.stack.mixed(mixture.flatten(0, 1)))

    def cost(self, mixture: Tensor) -> Tensor:
        """Of all gates, a scalar."""
        return (mixture * self.costs).sum()

    @torch.no_grad()
    def freeze(self) -> None:
        """Decide once: the candidate with the largest parameter, the first of equals."""
        if not self.chosen.any():
            self.chosen.scatter_(-1, self.architecture.argmax(-1, keepdim=True), 1.0)

    def cost_of_winners(self) -> int:
        """Of the gates that were chosen."""
        of_name = dict(zip(self.names, self.costs.tolist(), strict=True))
        return int(sum(of_name[gate.name] for pair in self.winners() for gate in pair))

    def winners(self) -> list[tuple[GateNetwork, GateNetwork]]:
        """The networks that were chosen, of attention and MLP block by block."""
        best = torch.where(self.chosen.any(), self.chosen, self.architecture).argmax(-1).flatten().tolist()
        networks = [self.stack.unit(gate, index) for gate, index in enumerate(best)]
        return list(zip(networks[::2], networks[1::2], strict=True))

    def of_today(self, weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The weights of a module with such gates, from when every candidate was a module of its own."""
        old, gates = f"{prefix}candidates.", self.chosen[..., 0].numel()
        if not any(name.startswith(old) for name in weights):
            return weights
        states: list[list[dict[str, Tensor]]] = [[{} for _ in self.names] for _ in range(gates)]
        for name in weights:
            if name.startswith(old):
                gate, candidate, key = name.removeprefix(old).split(".", 2)
                states[int(gate)][int(candidate)][key] = weights[name]
        stack = {f"{prefix}stack.{key}": value for key, value in stacked_state(states, self.names).items()}
        return {name: value for name, value in weights.items() if not name.startswith(old)} | stack
