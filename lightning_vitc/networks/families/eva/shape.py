"""Vision Transformers of timm's Eva class: what they have beside plain ones, and what rotary positions allow to cut.

A position turns pairs of dimensions of queries and keys by angles: a *band* is one frequency, by which one pair is
turned for the row of a patch and one for its column; of mixed ones, one pair with two learned frequencies. A narrower
head keeps whole bands, with their frequencies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Halved, Inner, Layout, norm, stream
from lightning_vitc.networks.blocks import ATTN
from lightning_vitc.networks.families.family import Parts
from lightning_vitc.networks.families.plain import shape as plain
from lightning_vitc.networks.gates.shapes import gate_axes
from lightning_vitc.networks.spec import ArchSpec

parts, positions, attended, at_size = plain.parts, plain.positions, plain.attended, plain.at_size
block_prefix, entry, BEFORE, BEHIND = plain.block_prefix, plain.entry, plain.BEFORE, plain.BEHIND
EXAMPLES = ("vit_small_patch16_dinov3", "eva02_tiny_patch14_224")
PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = plain.PAPERS
MIXED = "mixed"


@dataclass(frozen=True)
class Options(plain.Options):
    """What timm's `Eva` is told, by timm's names, beside what plain Vision Transformers have.

    `rope` is the kind of rotary positions (`cat`, `dinov3`, `mixed`), or empty; `rope_dim` the width of the heads that
    they were made for, and `rope_bands` which of its bands there are. `rope_reference` is the grid that positions are
    scaled to, or (0, 0); with `rope_rescale` a training stretches positions by up to that factor, drawn every pass.
    """

    rope: str = ""
    rope_dim: int = 0
    rope_bands: tuple[int, ...] = ()
    rope_temperature: float = 10000.0
    rope_offset: float = 0.0
    rope_indexing: str = "ij"
    rope_half: bool = False
    rope_reference: tuple[int, int] = (0, 0)
    rope_rescale: float = 0.0

    @property
    def per_band(self) -> int:
        """Dimensions of a head: a pair for the row, and one for the column, or one whose frequencies are learned."""
        return 2 if self.rope == MIXED else 4

    @property
    def pool_act(self) -> str:
        """Of the MLP of the pooling; timm's has no other."""
        return "gelu"

    @property
    def pool_sees_prefix(self) -> bool:
        """Of the pooling, in timm's class always."""
        return True


def params(spec: ArchSpec) -> int:
    """Parameters."""
    learned = sum(branch.query_width for _, _, branch in spec.branches()) if spec.options.rope == MIXED else 0
    return plain.params(spec) + learned


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(plain.layout(spec).around, tuple(_block(spec, number) for number in range(spec.depth)))


def _block(spec: ArchSpec, number: int) -> Axes:
    o, found = spec.options, Axes()
    for position, branch in enumerate(spec.blocks[number]):
        if branch is None:
            continue
        if o.layer_scale and (position == ATTN or o.mlp_gains):
            found[f"gamma_{position + 1}"] = (stream(0),)
        found |= dict(norm(f"norm{position + 1}", stream(0), o.norm_bias))
        found |= plain.branch_layout(spec, number, position, branch)
        if position == ATTN and getattr(o, "rope", "") == MIXED:  # two frequencies a pair
            heads, queries = (Inner(number, ATTN, what) for what in ("heads", "queries"))
            found |= {"attn.freqs": (None, heads, Halved(queries))}
        found |= gate_axes(f"gate{position + 1}", branch.gate)
    return found


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """As a plain one; heads keep whole bands, the first of those there are."""
    smaller, bands = plain.narrow(spec, ratio, cut), spec.options.rope_bands
    if not bands or cut == "heads":
        return smaller
    left = bands_of(spec, ratio)
    return smaller.with_options(rope_bands=bands[:left])


def bands_of(spec: ArchSpec, ratio: Fraction) -> int:
    """How many bands are left of a head.

    Raises:
        UserError: where they are not whole.
    """
    bands = len(spec.options.rope_bands)
    if (bands * ratio).denominator != 1:
        per_band = spec.options.per_band
        width = per_band * bands
        raise UserError(
            f"width: {float(ratio):g} of the head width {width} is {float(ratio * width):g}; rotary positions need a "
            f"multiple of {per_band}"
        )
    return (bands * ratio).numerator


def paired(spec: ArchSpec, smaller: ArchSpec, rule: str, end: str) -> tuple[ArchSpec, tuple[int, ...] | None]:
    """A narrower network by the bands at an end, and which dimensions of a head's queries and keys they are.

    Args:
        spec: the full one.
        smaller: of `narrow`.
        rule, end: of `slicing.slice_width`.

    Raises:
        UserError: for a rule that parts the dimensions of a pair.
    """
    plain.paired(spec, smaller, rule, end)
    bands, left = spec.options.rope_bands, len(smaller.options.rope_bands)
    if not spec.options.rope_bands or rule == "heads" or left == len(bands):
        return smaller, None
    if rule != "per_head":
        raise UserError(f"slice: {rule} parts dimensions that rotary positions turn together; use per_head or heads")
    kept = range(left) if end == "leading" else range(len(bands) - left, len(bands))
    return smaller.with_options(rope_bands=tuple(bands[band] for band in kept)), dimensions(
        spec.options, kept, len(bands)
    )


def dimensions(options: Options, bands: Any, count: int) -> tuple[int, ...]:
    """Positions of some of a head's bands, of which it has `count`, among the dimensions of its queries, sorted.

    In halves they run yyxx yyxx, y and x as many as there are bands, and dimension i is paired with the one half the
    width behind it; else they run yyyy xxxx in neighboring pairs.
    """
    if options.rope == MIXED:
        return tuple(2 * band + one for band in bands for one in (0, 1))
    if options.rope_half:
        return tuple(sorted(run * count + band for run in range(options.per_band) for band in bands))
    return tuple(sorted(axis * 2 * count + 2 * band + one for axis in (0, 1) for band in bands for one in (0, 1)))
