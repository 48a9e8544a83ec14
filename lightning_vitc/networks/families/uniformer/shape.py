"""UniFormer (Li et al., ICLR 2022), with patches, with a convolutional stem, and light: options, costs, weights.

Every block first adds a depthwise convolution, its position. Then two branches: in the first stages a *mixer* (a
depthwise convolution between two pointwise ones) and an MLP, with batch norms; in the others an attention and an MLP,
among all positions, or in a light network among half of them, one token for the others, and a class token.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Axis, Inner, Layout, batch_norm, linear, norm, stream
from lightning_vitc.networks.blocks import Branch, narrow_stages, scaled
from lightning_vitc.networks.branch_costs import (
    attention_macs,
    attention_params,
    gates_macs,
    gates_params,
    mlp_macs,
    mlp_params,
)
from lightning_vitc.networks.branch_layouts import attention_layout, mlp_layout
from lightning_vitc.networks.families.family import Parts
from lightning_vitc.networks.gates.shapes import gate_axes
from lightning_vitc.networks.spec import ArchSpec

EXAMPLES = ("uniformer_small", "uniformer_small_plus", "uniformer_xs")
MLP = 1  # the position of a block's MLP; the mixer or the attention is before it
GATES = ("gate1", "gate2")
BEFORE, BEHIND = ("cls_token", "patch_embed1."), ("norm.",)
STEM = "stem"  # the axis of the channels between the two convolutions of a stem
POSITION, MIXED = 3 * 3, 5 * 5  # pixels that the depthwise convolutions see


@dataclass(frozen=True)
class Options:
    """What stages and blocks do not say.

    Attributes:
        scale: the factor on QKᵀ.
        stem: channels inside of a convolutional stem, 0 for patches.
        norm_eps: of the LayerNorms of blocks.
        act: of the MLPs.
        light: whether tokens are dropped by the attention of a class token.
    """

    scale: float
    stem: int = 0
    norm_eps: float = 1e-6
    act: str = "gelu"
    light: bool = False

    @property
    def axes(self) -> dict[str, int]:
        """Of the state dict, beside those that every family has."""
        return {STEM: self.stem} if self.stem else {}


def positions(spec: ArchSpec) -> tuple[int, ...]:
    """Of each stage."""
    height, width = spec.img_size
    return tuple(-(-height // 2**step) * -(-width // 2**step) for step in range(2, 2 + len(spec.stages)))


def computed(spec: ArchSpec, number: int) -> int:
    """How many tokens the branches of a block compute: of a light network, but for its first attention, some."""
    stage, at = spec.place(number)
    there = positions(spec)[stage]
    if not spec.options.light or is_convolutional(stage):
        return there
    return there + 1 if (stage, at) == (2, 0) else there // 2 + 2


def is_convolutional(stage: int) -> bool:
    """Whether a stage mixes by convolutions, in images; else by attention, among tokens."""
    return stage < 2


def attended(spec: ArchSpec) -> tuple[int, ...]:
    """All tokens among themselves."""
    return tuple(0 if is_convolutional(stage) else count * count for stage, count in enumerate(positions(spec)))


# Costs


def parts(spec: ArchSpec) -> Parts:
    """Multiply-accumulates of one image by part."""
    there = positions(spec)
    count = Counter(stem=_stem_macs(spec), downsampling=0, position=0, mixer=0)
    seen = _seen(spec)
    for stage, (before, behind) in enumerate(pairwise(spec.stages), 1):
        count["downsampling"] += there[stage] * seen * before.width * behind.width
    for number in range(spec.depth):
        count["position"] += POSITION * there[spec.place(number)[0]] * spec.width_at(number)
    for number, _, branch in spec.branches():
        count.update(_branch_macs(branch, spec.width_at(number), computed(spec, number)))
    if spec.options.light:
        count["class_token"] = spec.widths[2] * spec.widths[3]
    count["gates"] = gates_macs(spec)
    count["classifier"] = spec.feature_width * spec.num_classes
    return dict(count)


def _seen(spec: ArchSpec) -> int:
    """Pixels of a kernel between stages."""
    return 9 if spec.options.stem and not spec.options.light else 4


def _branch_macs(branch: Branch, width: int, there: int) -> Counter[str]:
    if branch.kind == "mixer":
        return Counter(mixer=there * branch.width * (2 * width + MIXED))
    return (mlp_macs if not branch.query else attention_macs)(branch, width, there)


def _stem_macs(spec: ArchSpec) -> int:
    there, width, inside = positions(spec)[0], spec.stages[0].width, spec.options.stem
    if not inside:
        return there * 4 * 4 * spec.in_chans * width
    half = -(-spec.img_size[0] // 2) * -(-spec.img_size[1] // 2)
    return 9 * inside * (half * spec.in_chans + there * width)


def params(spec: ArchSpec) -> int:
    """Parameters; two of every norm's channel."""
    inside, widths = spec.options.stem, [stage.width for stage in spec.stages]
    total = sum(behind * (_seen(spec) * before + 3) for before, behind in pairwise(widths))
    if spec.options.light:  # token, its layer between stages, its norm and its classifier
        total += widths[2] + (widths[2] + 1) * widths[3] + 2 * widths[3] + (widths[3] + 1) * spec.num_classes
    if inside:
        total += inside * (9 * spec.in_chans + 3) + widths[0] * (9 * inside + 3)
    else:
        total += widths[0] * (16 * spec.in_chans + 3)
    total += 2 * widths[-1] + (widths[-1] + 1) * spec.num_classes + gates_params(spec)
    total += sum(spec.width_at(number) * (POSITION + 1) for number in range(spec.depth))
    return total + sum(_branch_params(branch, spec.width_at(number)) for number, _, branch in spec.branches())


def _branch_params(branch: Branch, width: int) -> int:
    if branch.kind == "mixer":
        return 2 * width + branch.width * (2 * width + MIXED + 2) + width
    return 2 * width + (mlp_params if not branch.query else attention_params)(branch, width)


def _dcvit(spec: ArchSpec) -> Parts:
    """Of norms the LayerNorms alone, as in networks whose norms are all of batches."""
    there, widths = positions(spec), spec.widths
    normed = sum(count * width for count, width in zip(there, widths, strict=True)) if _seen(spec) == 4 else 0
    normed -= there[0] * widths[0] if spec.options.light else 0  # a stem has none
    for number, _, _ in spec.branches():
        stage = spec.place(number)[0]
        normed += 0 if is_convolutional(stage) else computed(spec, number) * widths[stage]
    return parts(spec) | {"qk": 0, "av": 0, "norm": 4 * normed}


PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": _dcvit, "practise": _dcvit, "scala": parts, "usdc": parts,
}  # fmt: skip


# Weights


def block_prefix(stage: int, number: int) -> str:
    """As in the authors' files."""
    return f"blocks{stage + 1}.{number}."


def entry(stage: int) -> tuple[str, ...]:
    """The patch embedding."""
    return (f"patch_embed{stage + 1}.",)


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(dict(_around(spec)), tuple(_block(spec, number) for number in range(spec.depth)))


def _around(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    before: Axis = None
    for stage in range(len(spec.stages)):
        name, width = f"patch_embed{stage + 1}.proj", stream(stage)
        if spec.options.stem and not (spec.options.light and stage):
            layers = [(0, before, width)] if stage else [(0, None, STEM), (3, STEM, width)]
            for layer, columns, rows in layers:
                yield from _convolution(f"{name}.{layer}", rows, columns)
                yield from batch_norm(f"{name}.{layer + 1}", rows)
        else:
            yield from _convolution(name, width, before)
            yield from norm(f"patch_embed{stage + 1}.norm", width)
        before = width
    if spec.options.light:
        yield "cls_token", (None, None, stream(2))
        yield from linear("cls_upsample", before, stream(2))
        yield from norm("norm_cls", before)
        yield from linear("head_cls", None, before) if spec.num_classes else ()
    yield from batch_norm("norm", before)
    yield from linear("head", None, before) if spec.num_classes else ()


def _convolution(name: str, rows: Axis, columns: Axis) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    yield f"{name}.weight", (rows, columns, None, None)
    yield f"{name}.bias", (rows,)


def _block(spec: ArchSpec, number: int) -> Axes:
    stage = spec.place(number)[0]
    width, found = stream(stage), dict(_convolution("pos_embed", stream(stage), None))
    for position, branch in enumerate(spec.blocks[number]):
        if branch is not None:
            in_images = is_convolutional(stage)
            found |= dict((batch_norm if in_images else norm)(f"norm{position + 1}", width))
            found |= _of_images(number, position, width) if in_images else _of_tokens(number, position, width)
            found |= gate_axes(GATES[position], branch.gate)
    return found


def _of_images(number: int, position: int, width: Axis) -> Axes:
    inner = Inner(number, position, "pieces")
    if position == MLP:
        return dict(_convolution("mlp.fc1", inner, width)) | dict(_convolution("mlp.fc2", width, inner))
    layers = {"conv1": (inner, width), "attn": (inner, None), "conv2": (width, inner)}
    return {key: axes for name, (rows, columns) in layers.items() for key, axes in _convolution(name, rows, columns)}


def _of_tokens(number: int, position: int, width: Axis) -> Axes:
    return dict((mlp_layout if position == MLP else attention_layout)(number, position, width))


# Smaller relatives


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """All streams, branches and the stem."""
    stem = scaled(spec.options.stem, ratio, "the stem's channels")
    return replace(spec, stages=narrow_stages(spec.stages, ratio, cut), options=replace(spec.options, stem=stem))


def at_size(spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
    """For multiples of 32 pixels, which every stage halves without a rest."""
    for side in size:
        if side <= 0 or side % 32:
            raise UserError(f"img_size: {side} is not a multiple of 32")
    return replace(spec, img_size=size)
