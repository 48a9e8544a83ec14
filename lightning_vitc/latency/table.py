"""The table of measured sublayer latencies: attentions by heads and value widths, MLPs by hidden units, gates.

Every entry is the time of a small network that has `STACK` blocks of one kind, less that of a network without blocks
(or of blocks without branches, where these still do something), a block: so norms, residual additions and the weights'
way from memory are in it, as they are in the whole network.
All entries are scaled together so that they add up to the dense network, which is measured whole. Nanoseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from sklearn.linear_model import LinearRegression

from lightning_vitc.budget.prunable import stay_without_branches
from lightning_vitc.budget.stacks import Stack, stacks_of
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import ATTN, Block, Branch
from lightning_vitc.networks.spec import ArchSpec

STACK = 4  # blocks, so that their weights do not stay in the nearest cache
BARE, EMPTY = "bare", "empty"


def points_of(dense: ArchSpec, gates: Sequence[str] = ()) -> dict[str, ArchSpec]:
    """The networks to measure for the table of a dense one.

    Args:
        dense: whose blocks are alike within a stage.
        gates: names of the gate networks that may be in front of branches.
    """
    found = {BARE: dense.without_blocks()}
    if any(stack.attn is None for stack in stacks_of(dense)):
        raise UserError(
            f"budget.latency_ms: blocks of convolutions, as {dense.name} has, are not measured one by one; give "
            "budget.macs or budget.params"
        )
    for stack in stacks_of(dense):
        attn, mlp = stack.attn, stack.mlp
        assert attn is not None
        blocks = {
            _attn_name(heads, dim): Block((attn.of_pieces(*(dim,) * heads), None))
            for heads in knots(attn.groups) for dim in knots_of_dims(stack.head_dim)
        }  # fmt: skip
        blocks |= {EMPTY: Block((None, None))} if any(stay_without_branches(dense)) else {}
        blocks |= {_mlp_name(units): Block((None, mlp.of_pieces(units))) for units in knots(mlp.width)}
        blocks |= {_gate_name(name): Block((attn, mlp)).with_gates((name, name)) for name in gates}
        where = _stage(dense, stack)
        found |= {where + name: stack.alone(dense, *[block] * STACK) for name, block in blocks.items()}
    return found


def knots(size: int) -> list[int]:
    """Where a width is measured: 1, an eighth where that is much, the quarters, all."""
    eighth = {size // 8} if size >= 64 else set()
    return sorted({1, *eighth, *(max(1, round(size * part / 4)) for part in (1, 2, 3)), size})


def knots_of_dims(size: int) -> list[int]:
    """The same of a head's value width: narrower values are padded for fused kernels, which has a price of its own."""
    return sorted({1, max(1, size // 2), max(1, size - 1), size})


@dataclass(frozen=True)
class StackTable:
    """Of the blocks of a stage.

    Attributes:
        stack: these blocks.
        attn: [heads, value widths] of an attention with its norm, at `knots`, increasing along both.
        mlp: [hidden units] of an MLP with its norm, likewise.
        gates: of a gate that lets its branch run, by name.
    """

    stack: Stack
    attn: np.ndarray
    mlp: np.ndarray
    gates: dict[str, float]

    @property
    def block(self) -> float:
        """Of a whole block."""
        return float(self.attn[-1, -1] + self.mlp[-1])

    def scaled(self, scale: float) -> "StackTable":
        """All entries times a factor."""
        gates: dict[str, float] = {name: round(max(scale * taken, 1)) for name, taken in self.gates.items()}
        return StackTable(self.stack, scale * self.attn, scale * self.mlp, gates)

    def attention(self, attn: Branch) -> float:
        """Of an attention, between the knots by its heads and by the mean of their value widths."""
        at_dim = [
            np.interp(attn.width / attn.groups, knots_of_dims(self.stack.head_dim), row) for row in self.attn
        ]  # fmt: skip
        return float(np.interp(attn.groups, knots(self.stack.heads), at_dim))

    def hidden(self, units: int) -> float:
        """Of an MLP, between the knots; its norm alone, as far as that can be told, without any unit."""
        return float(np.interp(units, knots(self.stack.channels), self.mlp))

    def costs(self) -> StackCosts:
        """The linear costs nearest to the table that are exact for a whole block."""
        stack, channels = self.stack, self.stack.channels
        sizes = [(heads, heads * dim) for heads in knots(stack.heads) for dim in knots_of_dims(self.stack.head_dim)]
        whole_attn, whole_mlp = round(float(self.attn[-1, -1])), round(float(self.mlp[-1]))
        head, dim = _slopes(sizes, self.attn.flatten(), whole_attn)
        (channel,) = _slopes([(units,) for units in knots(channels)], self.mlp, whole_mlp)
        attn_alone = whole_attn - stack.heads * (head + stack.head_dim * dim)
        return StackCosts(self.stack, attn_alone, whole_mlp - channels * channel, head, dim, channel)


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of one network's parts at one place, and what they predict.

    Attributes:
        spec: the dense network.
        dense: its latency, measured whole.
        fixed: what every network has: embedding, the last norm, the classifier, what blocks have beside branches.
        stacks: of the blocks of each stage.
    """

    spec: ArchSpec
    dense: int
    fixed: int
    stacks: tuple[StackTable, ...]

    @classmethod
    def of(cls, spec: ArchSpec, measured: Mapping[str, int], gates: Sequence[str] = ()) -> "LatencyTable":
        """From the latencies of `points_of` and of `dense`."""
        bare, dense, found = measured[BARE], measured["dense"], []
        fixed = bare
        for stack in stacks_of(spec):
            named = partial(_measured, measured, _stage(spec, stack), bare)
            found.append(_stack_table(stack, named, gates))
            fixed += len(stack) * max(measured.get(_stage(spec, stack) + EMPTY, bare) - bare, 0) // STACK
        scale = max(dense - fixed, 1) / sum(len(part.stack) * part.block for part in found)
        return cls(spec, dense, fixed, tuple(part.scaled(scale) for part in found))

    def measure(self, spec: ArchSpec) -> int:
        """The latency that a network cut from the dense one is expected to have; its gates let everything run.

        Raises:
            ValueError: for a network of another embedding width.
        """
        if spec.widths != self.spec.widths:
            raise ValueError(f"a table of widths {self.spec.widths} says nothing about {spec.widths}")
        total = float(self.fixed)
        for number, position, branch in spec.branches():
            part = self.stacks[spec.place(number)[0]]
            total += part.attention(branch) if position == ATTN else part.hidden(branch.width)
            total += part.gates[branch.gate] if branch.gate else 0
        return round(total)

    def gate(self, name: str, block: int) -> int:
        """Of a gate that lets a branch of a block run."""
        return round(self.stacks[self.spec.place(block)[0]].gates[name])

    @cached_property
    def unit_costs(self) -> UnitCosts:
        """The linear costs nearest to the table that are exact for the dense network: for searches and projections."""
        parts = tuple(part.costs() for part in self.stacks)
        fixed = self.dense - sum(len(part.stack) * part.whole for part in parts)
        return UnitCosts(fixed, parts, self.dense)


def _stack_table(stack: Stack, branch: Callable[[str], float], gates: Sequence[str]) -> StackTable:
    attns = _rising([[branch(_attn_name(heads, dim)) for dim in knots_of_dims(stack.head_dim)]
                     for heads in knots(stack.heads)])  # fmt: skip
    mlps = _rising([[branch(_mlp_name(units)) for units in knots(stack.channels)]])[0]
    block = float(attns[-1, -1] + mlps[-1])
    return StackTable(stack, attns, mlps, {name: (branch(_gate_name(name)) - block) / 2 for name in gates})


def _slopes(sizes: Sequence[tuple[int, ...]], times: np.ndarray, whole: int) -> list[int]:
    """Nanoseconds a piece of each kind, at least 1: least squares through the largest point, none beyond the whole."""
    below = np.array(sizes[-1]) - np.array(sizes)
    slopes = LinearRegression(fit_intercept=False, positive=True).fit(below, times[-1] - times).coef_
    pieces = float(np.dot(slopes, sizes[-1]))
    if pieces > whole:
        slopes = slopes * whole / pieces
    return [max(int(slope), 1) for slope in slopes]


def _rising(times: Sequence[Sequence[float]]) -> np.ndarray:
    """Noise would else make something larger faster."""
    rising = np.maximum.accumulate(np.array(times, dtype=float), axis=0)
    return np.maximum.accumulate(rising, axis=1)


def _attn_name(heads: int, dim: int) -> str:
    return f"attention of {heads} x {dim}"


def _mlp_name(units: int) -> str:
    return f"mlp of {units}"


def _gate_name(name: str) -> str:
    return f"gates {name}"


def _stage(dense: ArchSpec, stack: Stack) -> str:
    """What the names of a stage's points begin with."""
    return "" if len(dense.stages) == 1 else f"stage {stack.stage} "


def _measured(measured: Mapping[str, int], stage: str, bare: int, name: str) -> float:
    """What one block of a point adds to a network whose blocks are empty."""
    return max(measured[stage + name] - measured.get(stage + EMPTY, bare), STACK) / STACK
