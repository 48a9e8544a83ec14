"""Differentiable choice of a gate network for every branch (as in DARTS, Liu et al., 2019).

L blocks, K candidates. What the paper leaves open is ours: the logits of the candidates are mixed, not their
decisions, and one candidate alone (K = 1) is the ablation without a search.
"""

from collections.abc import Sequence
from itertools import groupby

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
        widths: of the tokens of each of the L blocks; equal ones follow each other.
        names: of the K candidates.
        temperature: of the softmax over the architecture parameters.
        costs: of the candidates of each block; default: their MACs.
    """

    chosen: Tensor
    costs: Tensor

    def __init__(self, widths: Sequence[int], names: Sequence[str], temperature: float = 1.0,
                 costs: Sequence[Sequence[int]] | None = None):  # fmt: skip
        super().__init__()
        self.names, self.temperature = tuple(names), temperature
        self.blocks = [(dim, len(list(alike))) for dim, alike in groupby(widths)]  # that have a stack of gates
        self.stacks = nn.ModuleList(
            GateStack([[GateNetwork(name, dim).start() for name in names] for _ in range(2 * count)])
            for dim, count in self.blocks
        )
        self.architecture = nn.Parameter(torch.zeros(len(widths), 2, len(names)))
        self.register_buffer("chosen", torch.zeros_like(self.architecture))  # one-hot from when it is frozen
        of_each = [[gate_macs(name, dim) for name in names] for dim in widths] if costs is None else costs
        self.register_buffer("costs", torch.tensor(of_each, dtype=torch.float)[:, None], persistent=False)

    def mixture(self, frozen: bool) -> Tensor:
        """Shares of the candidates [L, 2, K]: a softmax, or the choice; the parameters always get a gradient.

        So that under DDP every parameter takes part in every step.
        """
        if frozen:
            return self.chosen + 0 * self.architecture
        return (self.architecture / self.temperature).softmax(-1)

    def deciding(self, mixture: Tensor) -> list[Deciding]:
        """Of each block, what its gates are asked in their order: attention, then MLP."""
        found: list[Deciding] = []
        for stack, (_, count) in zip(self._stacks(), self.blocks, strict=True):
            shares = mixture[len(found) : len(found) + count]
            found += [Deciding(stack, stack.mixed(shares.flatten(0, 1)))] * count
        return found

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
        return int((self._best() * self.costs).sum())

    def winners(self) -> list[tuple[GateNetwork, GateNetwork]]:
        """The networks that were chosen, of attention and MLP block by block."""
        best = iter(self._best().argmax(-1).flatten().tolist())
        networks = [
            stack.unit(gate, next(best))
            for stack, (_, count) in zip(self._stacks(), self.blocks, strict=True) for gate in range(2 * count)
        ]  # fmt: skip
        return list(zip(networks[::2], networks[1::2], strict=True))

    def _best(self) -> Tensor:
        """One-hot, [L, 2, K]."""
        best = torch.where(self.chosen.any(), self.chosen, self.architecture).argmax(-1, keepdim=True)
        return torch.zeros_like(self.chosen).scatter_(-1, best, 1.0)

    def _stacks(self) -> list[GateStack]:
        return list(self.stacks)  # type: ignore[arg-type]

    def of_today(self, weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The weights of a module with such gates, from when all were of one width, or modules of their own."""
        weights = {name.replace(f"{prefix}stack.", f"{prefix}stacks.0."): value for name, value in weights.items()}
        old, gates = f"{prefix}candidates.", self.chosen[..., 0].numel()
        if not any(name.startswith(old) for name in weights):
            return weights
        states: list[list[dict[str, Tensor]]] = [[{} for _ in self.names] for _ in range(gates)]
        for name in weights:
            if name.startswith(old):
                gate, candidate, key = name.removeprefix(old).split(".", 2)
                states[int(gate)][int(candidate)][key] = weights[name]
        stack = {f"{prefix}stacks.0.{key}": value for key, value in stacked_state(states, self.names).items()}
        return {name: value for name, value in weights.items() if not name.startswith(old)} | stack
