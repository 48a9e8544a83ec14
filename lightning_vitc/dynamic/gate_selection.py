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
        gated: [L, 2] which branches have a gate; default: all.
    """

    chosen: Tensor
    costs: Tensor

    def __init__(self, widths: Sequence[int], names: Sequence[str], temperature: float = 1.0,
                 costs: Sequence[Sequence[int]] | None = None, gated: Tensor | None = None):  # fmt: skip
        super().__init__()
        gated = torch.ones(len(widths), 2, dtype=torch.bool) if gated is None else gated
        units = gated.nonzero().tolist()  # (block, branch), in the order in which they are asked
        self.units = [
            [(block, branch) for block, branch in same] for _, same in groupby(units, lambda unit: widths[unit[0]])
        ]
        self.names, self.temperature = tuple(names), temperature
        self.stacks = nn.ModuleList(
            GateStack([[GateNetwork(name, widths[block]).start() for name in names] for block, _ in alike])
            for alike in self.units
        )
        self.architecture = nn.Parameter(torch.zeros(len(widths), 2, len(names)))
        self.register_buffer("chosen", torch.zeros_like(self.architecture))  # one-hot from when it is frozen
        of_each = [[gate_macs(name, dim) for name in names] for dim in widths] if costs is None else costs
        each = torch.tensor(of_each, dtype=torch.float)[:, None] * gated[..., None]  # [L, 2, K]
        self.register_buffer("costs", each, persistent=False)

    def mixture(self, frozen: bool) -> Tensor:
        """Shares of the candidates [L, 2, K]: a softmax, or the choice; the parameters always get a gradient.

        So that under DDP every parameter takes part in every step.
        """
        if frozen:
            return self.chosen + 0 * self.architecture
        return (self.architecture / self.temperature).softmax(-1)

    def deciding(self, mixture: Tensor) -> dict[int, Deciding]:
        """Of each block with gates, what these are asked in their order: attention, then MLP."""
        found: dict[int, Deciding] = {}
        for stack, alike in zip(self._stacks(), self.units, strict=True):
            deciding = Deciding(stack, stack.mixed(_rows(mixture.flatten(0, 1), alike)))
            found |= {block: deciding for block, _ in alike}
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

    def winners(self) -> list[tuple[GateNetwork | None, GateNetwork | None]]:
        """The networks that were chosen, of attention and MLP block by block."""
        best = self._best().argmax(-1).tolist()
        found = {
            (block, branch): stack.unit(gate, best[block][branch])
            for stack, alike in zip(self._stacks(), self.units, strict=True)
            for gate, (block, branch) in enumerate(alike)
        }
        return [(found.get((block, 0)), found.get((block, 1))) for block in range(len(best))]

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


def _rows(shares: Tensor, units: Sequence[tuple[int, int]]) -> Tensor:
    """Of [2 L, K] those of some branches."""
    rows = [2 * block + branch for block, branch in units]
    if rows == list(range(rows[0], rows[-1] + 1)):
        return shares[rows[0] : rows[-1] + 1]
    return shares[rows]
