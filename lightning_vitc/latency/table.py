"""The table of measured sublayer latencies: attentions by heads and value widths, MLPs by hidden units, gates.

Every entry is the time of a small network that has `STACK` blocks of one kind, less that of a network without blocks,
a block: so norms, residual additions and the weights' way from memory are in it, as they are in the whole network.
All entries are scaled together so that they add up to the dense network, which is measured whole. Nanoseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.linear_model import LinearRegression

from lightning_vitc.budget.masks import uniform
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.networks.blocks import ATTN, Block, Branch
from lightning_vitc.networks.spec import ArchSpec

STACK = 4  # blocks, so that their weights do not stay in the nearest cache
BARE = "bare"


def points_of(dense: ArchSpec, gates: Sequence[str] = ()) -> dict[str, ArchSpec]:
    """The networks to measure for the table of a dense one.

    Args:
        dense: whose blocks are alike.
        gates: names of the gate networks that may be in front of branches.
    """
    attn, mlp = uniform(dense)
    blocks = {
        _attn_name(heads, dim): Block((attn.of_pieces(*(dim,) * heads), None))
        for heads in knots(attn.groups) for dim in knots_of_dims(attn.query)
    }  # fmt: skip
    blocks |= {_mlp_name(units): Block((None, mlp.of_pieces(units))) for units in knots(mlp.width)}
    blocks |= {_gate_name(name): Block((attn, mlp)).with_gates((name, name)) for name in gates}
    stacks = {name: dense.with_stage(*[block] * STACK) for name, block in blocks.items()}
    return {BARE: dense.with_stage(), **stacks}


def knots(size: int) -> list[int]:
    """Where a width is measured: 1, an eighth where that is much, the quarters, all."""
    eighth = {size // 8} if size >= 64 else set()
    return sorted({1, *eighth, *(max(1, round(size * part / 4)) for part in (1, 2, 3)), size})


def knots_of_dims(size: int) -> list[int]:
    """The same of a head's value width: narrower values are padded for fused kernels, which has a price of its own."""
    return sorted({1, max(1, size // 2), max(1, size - 1), size})


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of one network's parts at one place, and what they predict.

    Attributes:
        spec: the dense network.
        dense: its latency, measured whole.
        fixed: what every network has: embedding, the last norm, the classifier.
        attn: [heads, value widths] of an attention with its norm, at `knots`, increasing along both.
        mlp: [hidden units] of an MLP with its norm, likewise.
        gates: of a gate that lets its branch run, by name.
    """

    spec: ArchSpec
    dense: int
    fixed: int
    attn: np.ndarray
    mlp: np.ndarray
    gates: dict[str, int]

    @classmethod
    def of(cls, spec: ArchSpec, measured: Mapping[str, int], gates: Sequence[str] = ()) -> "LatencyTable":
        """From the latencies of `points_of` and of `dense`."""
        attn, mlp = uniform(spec)
        bare, dense = measured[BARE], measured["dense"]

        def branch(name: str) -> float:
            return max(measured[name] - bare, STACK) / STACK

        dims = knots_of_dims(attn.query)
        attns = _rising([[branch(_attn_name(heads, dim)) for dim in dims] for heads in knots(attn.groups)])
        mlps = _rising([[branch(_mlp_name(units)) for units in knots(mlp.width)]])[0]
        block = float(attns[-1, -1] + mlps[-1])
        scale = max(dense - bare, 1) / (spec.depth * block)
        found = {name: round(max(scale * (branch(_gate_name(name)) - block) / 2, 1)) for name in gates}
        return cls(spec, dense, bare, scale * attns, scale * mlps, found)

    def measure(self, spec: ArchSpec) -> int:
        """The latency that a network cut from the dense one is expected to have; its gates let everything run.

        Raises:
            ValueError: for a network of another embedding width.
        """
        if spec.embed_dim != self.spec.embed_dim:
            raise ValueError(f"a table of embed_dim {self.spec.embed_dim} says nothing about {spec.embed_dim}")
        total = float(self.fixed)
        for _, position, branch in spec.branches():
            total += self.attention(branch) if position == ATTN else self.hidden(branch.width)
            total += self.gates[branch.gate] if branch.gate else 0
        return round(total)

    def attention(self, attn: Branch) -> float:
        """Of an attention, between the knots by its heads and by the mean of their value widths."""
        whole, _ = uniform(self.spec)
        at_dim = [
            np.interp(attn.width / attn.groups, knots_of_dims(whole.query), row) for row in self.attn
        ]  # fmt: skip
        return float(np.interp(attn.groups, knots(whole.groups), at_dim))

    def hidden(self, units: int) -> float:
        """Of an MLP, between the knots; its norm alone, as far as that can be told, without any unit."""
        _, mlp = uniform(self.spec)
        return float(np.interp(units, knots(mlp.width), self.mlp))

    @cached_property
    def unit_costs(self) -> UnitCosts:
        """The linear costs nearest to the table that are exact for the dense network: for searches and projections."""
        attn, mlp = uniform(self.spec)
        sizes = [(heads, heads * dim) for heads in knots(attn.groups) for dim in knots_of_dims(attn.query)]
        whole_attn, whole_mlp = round(float(self.attn[-1, -1])), round(float(self.mlp[-1]))
        head, dim = _slopes(sizes, self.attn.flatten(), whole_attn)
        (channel,) = _slopes([(units,) for units in knots(mlp.width)], self.mlp, whole_mlp)
        fixed = self.dense - self.spec.depth * (whole_attn + whole_mlp)
        attn_alone = whole_attn - attn.groups * head - attn.width * dim
        return UnitCosts(fixed, attn_alone, whole_mlp - mlp.width * channel, head, dim, channel, self.dense)


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
