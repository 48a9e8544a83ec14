"""MobileNetV2 (Sandler et al., CVPR 2018): options, costs, weights and smaller relatives.

A block widens the stream by a pointwise convolution, runs a depthwise one over the hidden channels, and narrows it
again; the first block has no widening: its hidden channels are the stem's.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Axis, Inner, Layout, batch_norm, linear, stream
from lightning_vitc.networks.blocks import MLP, Stage, convolutions, must_be_depths
from lightning_vitc.networks.branch_costs import gates_macs, gates_params
from lightning_vitc.networks.families.family import Parts
from lightning_vitc.networks.gates.shapes import gate_axes
from lightning_vitc.networks.spec import ArchSpec

EXAMPLES = ("mobilenetv2_100",)
BEFORE, BEHIND = ("conv_stem.", "bn1."), ("conv_head.", "bn2.")
STEM = "stem"  # the axis of its channels, which are the first block's hidden ones
SEEN = 3 * 3  # positions that a depthwise convolution sees, and the stem
EXPANSION = 6  # hidden channels by those of the stream
STRIDES = (1, 2, 2, 2, 1, 2, 1)


@dataclass(frozen=True)
class Options:
    """`stem` and `head` are the channels of the first and of the last convolution."""

    stem: int = 32
    head: int = 1280
    strides: tuple[int, ...] = STRIDES  # of each stage's first block
    norm_eps: float = 1e-5

    @property
    def axes(self) -> dict[str, int]:
        """Of the state dict, beside those that every family has."""
        return {STEM: self.stem}


def mobilenet(name: str = "mobilenetv2_100", img_size: int = 224, num_classes: int = 1000) -> ArchSpec:
    """The network of width 1."""
    stages, before = [Stage(16, (convolutions("separable", 32),))], 16
    for width, depth in ((24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)):
        hidden = [EXPANSION * before] + [EXPANSION * width] * (depth - 1)
        stages.append(Stage(width, tuple(convolutions("inverted", channels) for channels in hidden)))
        before = width
    return ArchSpec(name, "mobilenet", (img_size, img_size), 3, num_classes, tuple(stages), Options())


def rounded(channels: Fraction | float) -> int:
    """The nearest multiple of 8 that is at least 90 percent, and 8 (as in US-Net's and timm's code)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def positions(spec: ArchSpec) -> tuple[int, ...]:
    """Behind each stage."""
    found, (height, width) = [], (-(-side // 2) for side in spec.img_size)
    for stride in spec.options.strides:
        height, width = -(-height // stride), -(-width // stride)
        found.append(height * width)
    return tuple(found)


def widths_of(spec: ArchSpec, number: int) -> tuple[int, int]:
    """Of the stream before and behind a block."""
    stage, at = spec.place(number)
    width = spec.stages[stage].width
    if at:
        return width, width
    return (spec.stages[stage - 1].width if stage else spec.options.stem), width


def positions_of(spec: ArchSpec, number: int) -> tuple[int, int]:
    """Before and behind a block."""
    stage, at = spec.place(number)
    there = positions(spec)
    stem = -(-spec.img_size[0] // 2) * -(-spec.img_size[1] // 2)
    return (there[stage] if at else there[stage - 1] if stage else stem), there[stage]


def keeps_stream(spec: ArchSpec, number: int) -> bool:
    """Whether a block's input is added to its output, so that it may be absent."""
    stage, at = spec.place(number)
    before, behind = widths_of(spec, number)
    return before == behind and (at > 0 or spec.options.strides[stage] == 1)


def attended(spec: ArchSpec) -> tuple[int, ...]:
    """No attention."""
    return (0,) * len(spec.stages)


def of_keys(spec: ArchSpec, depths: Sequence[int] | None = None) -> ArchSpec:
    """With so many blocks in each stage, of which there may be fewer."""
    if depths is None:
        return spec
    must_be_depths(spec.name, len(spec.stages), depths)
    stages = []
    for stage, depth in zip(spec.stages, depths, strict=False):
        more = (convolutions("inverted", EXPANSION * stage.width),) * (depth - 1)
        stages.append(replace(stage, blocks=stage.blocks[:1] + more))
    return replace(spec, stages=tuple(stages)).with_options(strides=spec.options.strides[: len(depths)])


# Costs


def parts(spec: ArchSpec) -> Parts:
    """Multiply-accumulates of one image by part."""
    stem = -(-spec.img_size[0] // 2) * -(-spec.img_size[1] // 2)
    count = Counter(stem=stem * SEEN * spec.in_chans * spec.options.stem, pointwise=0, depthwise=0)
    for number, _, branch in spec.branches():
        (before, behind), (there, left) = widths_of(spec, number), positions_of(spec, number)
        widening = there * before if branch.kind == "inverted" else 0
        count["pointwise"] += branch.width * (widening + left * behind)
        count["depthwise"] += branch.width * left * SEEN
    count["head"] = positions(spec)[-1] * spec.feature_width * spec.options.head
    count["gates"] = gates_macs(spec)
    count["classifier"] = spec.options.head * spec.num_classes
    return dict(count)


def params(spec: ArchSpec) -> int:
    """Parameters; two of every batch norm's channel."""
    o = spec.options
    total = o.stem * (SEEN * spec.in_chans + 2) + o.head * (spec.feature_width + 2)
    total += (o.head + 1) * spec.num_classes + gates_params(spec)
    for number, _, branch in spec.branches():
        before, behind = widths_of(spec, number)
        widening = before + 2 if branch.kind == "inverted" else 0
        total += branch.width * (widening + SEEN + 2 + behind) + 2 * behind
    return total


PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": parts, "practise": parts, "scala": parts, "usdc": parts,
}  # fmt: skip


# Weights


def block_prefix(stage: int, number: int) -> str:
    """As in timm."""
    return f"blocks.{stage}.{number}."


def entry(stage: int) -> tuple[str, ...]:
    """Its first block does."""
    return ()


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(dict(_around(spec)), tuple(_block(spec, number) for number in range(spec.depth)))


def _around(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    yield "conv_stem.weight", (STEM, None, None, None)
    yield from batch_norm("bn1", STEM)
    yield "conv_head.weight", (None, stream(len(spec.stages) - 1), None, None)
    yield from batch_norm("bn2", None)
    yield from linear("classifier", None, None) if spec.num_classes else ()


def _block(spec: ArchSpec, number: int) -> Axes:
    branch, (stage, at) = spec.blocks[number].branches[MLP], spec.place(number)
    if branch is None:
        return {}
    before, behind = (stream(stage) if at else stream(stage - 1) if stage else STEM), stream(stage)
    if branch.kind == "separable":
        layers: list[tuple[str, str, Axis, Axis]] = [
            ("conv_dw", "bn1", before, None), ("conv_pw", "bn2", behind, before),
        ]  # fmt: skip
    else:
        hidden = Inner(number, MLP, "pieces")
        layers = [
            ("conv_pw", "bn1", hidden, before), ("conv_dw", "bn2", hidden, None), ("conv_pwl", "bn3", behind, hidden),
        ]  # fmt: skip
    found: Axes = {}
    for convolution, norm, rows, columns in layers:
        found |= {f"{convolution}.weight": (rows, columns, None, None), **dict(batch_norm(norm, rows))}
    return found | gate_axes("gate2", branch.gate)


# Smaller relatives


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """Every width rounded on its own, hidden channels as many times the rounded input as they were; head whole."""
    stem, stages, number = rounded(ratio * spec.options.stem), [], 0
    before = stem
    for stage in spec.stages:
        width = rounded(ratio * stage.width)
        blocks = []
        for _, branch in stage.blocks:
            assert branch is not None
            hidden = branch.width // widths_of(spec, number)[0] * before
            blocks.append(convolutions(branch.kind, hidden))
            before, number = width, number + 1
        stages.append(Stage(width, tuple(blocks)))
    return replace(spec, stages=tuple(stages), options=replace(spec.options, stem=stem))


def at_size(spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
    """Any size."""
    if min(size) <= 0:
        raise UserError(f"img_size: {size[0]}x{size[1]} is no size")
    return replace(spec, img_size=size)
