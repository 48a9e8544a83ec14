"""ResNets of basic blocks (He et al., CVPR 2016): options, costs, weights and smaller relatives.

The stream of a stage is what its blocks add to, ReLU behind every sum; the inner channels of a block are its own. The
first block of a stage after the first halves the grid, and a convolution takes the stream along.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Axis, Inner, Layout, batch_norm, linear, stream
from lightning_vitc.networks.blocks import MLP, Stage, convolutions, must_be_depths, narrow_stages
from lightning_vitc.networks.branch_costs import gates_macs, gates_params
from lightning_vitc.networks.families.family import Parts
from lightning_vitc.networks.gates.shapes import gate_axes
from lightning_vitc.networks.spec import ArchSpec

EXAMPLES = ("resnet34",)
BEFORE: tuple[str, ...] = ("conv1.", "bn1.")
BEHIND: tuple[str, ...] = ()
STEM = 7 * 7  # positions that the first convolution sees
SEEN = 3 * 3  # and the others


@dataclass(frozen=True)
class Options:
    """Of the batch norms."""

    norm_eps: float = 1e-5


def resnet(name: str, depths: tuple[int, ...], widths: tuple[int, ...] = (64, 128, 256, 512), img_size: int = 224,
           num_classes: int = 1000) -> ArchSpec:  # fmt: skip
    """A ResNet whose inner channels are as many as its stream is wide."""
    stages = tuple(
        Stage(width, (convolutions("basic", width),) * depth) for width, depth in zip(widths, depths, strict=True)
    )
    return ArchSpec(name, "resnet", (img_size, img_size), 3, num_classes, stages, Options())


def positions(spec: ArchSpec) -> tuple[int, ...]:
    """Of each stage."""
    found, (height, width) = [], spec.img_size
    height, width = -(-height // 2), -(-width // 2)  # the stem; its pooling halves again, as each later stage does
    for _ in spec.stages:
        height, width = -(-height // 2), -(-width // 2)
        found.append(height * width)
    return tuple(found)


def widths_of(spec: ArchSpec, number: int) -> tuple[int, int]:
    """Of the stream before and behind a block."""
    stage, at = spec.place(number)
    before = spec.stages[max(stage - 1, 0) if at == 0 else stage].width
    return before, spec.stages[stage].width


def changes_stream(spec: ArchSpec, number: int) -> bool:
    """Whether a block leads from one stage to the next, and has a convolution beside it."""
    stage, at = spec.place(number)
    return at == 0 and stage > 0


def keeps_stream(spec: ArchSpec, number: int) -> bool:
    """Whether a block may be absent: what enters it has the shape of what leaves it."""
    return not changes_stream(spec, number)


def attended(spec: ArchSpec) -> tuple[int, ...]:
    """No attention."""
    return (0,) * len(spec.stages)


def of_keys(spec: ArchSpec, depths: Sequence[int] | None = None, embed_dim: int | None = None) -> ArchSpec:
    """With so many blocks in each stage, of which there may be fewer, and a first one of another width.

    The other stages are as many times as wide as the first as they were.
    """
    if embed_dim is not None:
        spec = narrow(spec, Fraction(embed_dim, spec.stages[0].width), "dims")
    if depths is None:
        return spec
    must_be_depths(spec.name, len(spec.stages), depths)
    pairs = zip(spec.stages, depths, strict=False)
    return replace(spec, stages=tuple(replace(stage, blocks=stage.blocks[:1] * depth) for stage, depth in pairs))


# Costs


def parts(spec: ArchSpec) -> Parts:
    """Multiply-accumulates of one image by part."""
    there, (height, width) = positions(spec), spec.img_size
    stem = -(-height // 2) * -(-width // 2) * STEM * spec.in_chans * spec.stages[0].width
    count = Counter(stem=stem, convolutions=0, downsample=0)
    for number, _, branch in spec.branches():
        before, behind = widths_of(spec, number)
        count["convolutions"] += SEEN * there[spec.place(number)[0]] * branch.width * (before + behind)
    for number in range(spec.depth):
        if changes_stream(spec, number):
            before, behind = widths_of(spec, number)
            count["downsample"] += there[spec.place(number)[0]] * before * behind
    count["gates"] = gates_macs(spec)
    count["classifier"] = spec.feature_width * spec.num_classes
    return dict(count)


def params(spec: ArchSpec) -> int:
    """Parameters; two of every batch norm's channel."""
    first, last = spec.stages[0].width, spec.feature_width
    total = first * (STEM * spec.in_chans + 2) + (last + 1) * spec.num_classes + gates_params(spec)
    for number, _, branch in spec.branches():
        before, behind = widths_of(spec, number)
        total += SEEN * branch.width * (before + behind) + 2 * (branch.width + behind)
    for number in range(spec.depth):
        if changes_stream(spec, number):
            before, behind = widths_of(spec, number)
            total += behind * (before + 2)
    return total


PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": parts, "practise": parts, "scala": parts, "usdc": parts,
}  # fmt: skip


# Weights


def block_prefix(stage: int, number: int) -> str:
    """As in timm and torchvision."""
    return f"layer{stage + 1}.{number}."


def entry(stage: int) -> tuple[str, ...]:
    """Its first block does."""
    return ()


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(dict(_around(spec)), tuple(_block(spec, number) for number in range(spec.depth)))


def _around(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    yield "conv1.weight", (stream(0), None, None, None)
    yield from batch_norm("bn1", stream(0))
    yield from linear("fc", None, stream(len(spec.stages) - 1)) if spec.num_classes else ()


def _block(spec: ArchSpec, number: int) -> Axes:
    stage, at = spec.place(number)
    before, behind = stream(max(stage - 1, 0) if at == 0 else stage), stream(stage)
    found: Axes = {}
    if (branch := spec.blocks[number].branches[MLP]) is not None:
        inner = Inner(number, MLP, "pieces")
        found |= {"conv1.weight": (inner, before, None, None), **dict(batch_norm("bn1", inner))}
        found |= {"conv2.weight": (behind, inner, None, None), **dict(batch_norm("bn2", behind))}
        found |= gate_axes("gate2", branch.gate)
    if changes_stream(spec, number):
        found |= {"downsample.0.weight": (behind, before, None, None), **dict(batch_norm("downsample.1", behind))}
    return found


# Smaller relatives


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """All channels."""
    return replace(spec, stages=narrow_stages(spec.stages, ratio, cut))


def at_size(spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
    """Any size."""
    if min(size) <= 0:
        raise UserError(f"img_size: {size[0]}x{size[1]} is no size")
    return replace(spec, img_size=size)
