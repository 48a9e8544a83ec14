"""Swin Transformers (Liu et al., ICCV 2021): options, costs, weights and smaller relatives.

A stage after the first begins with a merge: the four neighbors of a 2x2 cell side by side, a norm, a linear layer.
Attention runs in windows of a grid that is padded to whole ones; a window is no larger than the grid.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Axis, Inner, Layout, Tiled, linear, norm, stream
from lightning_vitc.networks.blocks import ATTN, MLP, Block, Branch, Stage, attention, mlp, narrow_stages
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

EXAMPLES = ("swin_tiny_patch4_window7_224",)
GATES = ("gate1", "gate2")
BEFORE, BEHIND = ("patch_embed.",), ("norm.",)


@dataclass(frozen=True)
class Options:
    """What timm's `SwinTransformer` is told, by timm's names.

    `window_size` has a window for each stage, `scale` is the factor on QKᵀ.
    """

    patch_size: tuple[int, int]
    window_size: tuple[int, ...]
    scale: float
    qkv_bias: bool = True
    norm_eps: float = 1e-5
    act: str = "gelu"
    global_pool: str = "avg"


def swin(name: str, embed_dim: int, depths: tuple[int, ...], heads: tuple[int, ...], window_size: int = 7,
         img_size: int = 224, num_classes: int = 1000) -> ArchSpec:  # fmt: skip
    """A Swin Transformer of the paper's proportions: heads of one width, MLPs four times as wide as the stream.

    The shift of every other block is noted in it, so that the others keep theirs when one is removed.
    """
    stages = []
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        width = embed_dim * 2**stage
        query = width // count
        stages.append(Stage(width, tuple(
            Block((attention(query, (query,) * count, shift=window_size // 2 * (number % 2)), mlp(4 * width)))
            for number in range(depth)
        )))  # fmt: skip
    options = Options((4, 4), (window_size,) * len(depths), (embed_dim // heads[0]) ** -0.5)
    return ArchSpec(name, "swin", (img_size, img_size), 3, num_classes, tuple(stages), options)


def grids(spec: ArchSpec) -> list[tuple[int, int]]:
    """Positions of each stage, down and across."""
    height, width = (side // patch for side, patch in zip(spec.img_size, spec.options.patch_size, strict=True))
    found = [(height, width)]
    for _ in spec.stages[1:]:
        height, width = -(-height // 2), -(-width // 2)
        found.append((height, width))
    return found


def windows(spec: ArchSpec) -> list[tuple[int, int]]:
    """Of each stage, down and across: the option's, or the grid where that is not larger."""
    sizes = zip(grids(spec), spec.options.window_size, strict=True)
    return [(min(height, window), min(width, window)) for (height, width), window in sizes]


def shifts(spec: ArchSpec, stage: int, branch: Branch) -> tuple[int, int]:
    """By which an attention's windows are shifted, down and across: none where one window holds the grid."""
    window = spec.options.window_size[stage]
    down, across = (branch.shift if side > window else 0 for side in grids(spec)[stage])
    return down, across


def positions(spec: ArchSpec) -> tuple[int, ...]:
    """Of each stage."""
    return tuple(height * width for height, width in grids(spec))


def padded(spec: ArchSpec) -> tuple[int, ...]:
    """Positions of each stage's attention, whose windows are whole."""
    return tuple(
        -(-height // down) * down * -(-width // across) * across
        for (height, width), (down, across) in zip(grids(spec), windows(spec), strict=True)
    )


def _offsets(spec: ArchSpec, stage: int) -> int:
    """Rows of a table of biases: the distances between two positions of a window."""
    down, across = windows(spec)[stage]
    return (2 * down - 1) * (2 * across - 1)


def attended(spec: ArchSpec) -> tuple[int, ...]:
    """In windows."""
    return tuple(count * down * across for count, (down, across) in zip(padded(spec), windows(spec), strict=True))


# Costs


def parts(spec: ArchSpec) -> Parts:
    """Multiply-accumulates of one image by part."""
    down, across = spec.options.patch_size
    there, in_windows = positions(spec), padded(spec)
    count = Counter(patch_embed=there[0] * spec.stages[0].width * spec.in_chans * down * across)
    for stage in range(1, len(spec.stages)):
        count["merge"] += there[stage] * 4 * spec.stages[stage - 1].width * spec.stages[stage].width
    for number, position, branch in spec.branches():
        stage, width = spec.place(number)[0], spec.width_at(number)
        if position == ATTN:
            height, wide = windows(spec)[stage]
            count.update(attention_macs(branch, width, in_windows[stage], height * wide))
        else:
            count.update(mlp_macs(branch, width, there[stage]))
    count["gates"] = gates_macs(spec)
    count["classifier"] = spec.feature_width * spec.num_classes
    return dict(count)


def params(spec: ArchSpec) -> int:
    """Parameters."""
    down, across = spec.options.patch_size
    widths = [stage.width for stage in spec.stages]
    total = widths[0] * (spec.in_chans * down * across + 3) + 2 * widths[-1]  # stem with its norm, final norm
    total += sum(4 * before * (width + 2) for before, width in pairwise(widths))
    total += (widths[-1] + 1) * spec.num_classes + gates_params(spec)
    for number, position, branch in spec.branches():
        stage, width = spec.place(number)[0], spec.width_at(number)
        total += 2 * width
        if position == ATTN:
            total += attention_params(branch, width, spec.options.qkv_bias) + _offsets(spec, stage) * branch.groups
        else:
            total += mlp_params(branch, width)
    return total


def _dcvit(spec: ArchSpec) -> Parts:
    there, widths = positions(spec), [stage.width for stage in spec.stages]
    normed = there[0] * widths[0] + there[-1] * widths[-1]
    normed += sum(there[stage] * 4 * widths[stage - 1] for stage in range(1, len(widths)))
    normed += sum(there[spec.place(number)[0]] * spec.width_at(number) for number, _, _ in spec.branches())
    return parts(spec) | {"qk": 0, "av": 0, "norm": 4 * normed}


PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": _dcvit, "practise": _dcvit, "scala": parts, "usdc": parts,
}  # fmt: skip


# Weights


def block_prefix(stage: int, number: int) -> str:
    """As in timm."""
    return f"layers.{stage}.blocks.{number}."


def entry(stage: int) -> tuple[str, ...]:
    """The merge."""
    return (f"layers.{stage}.downsample.",)


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(dict(_around(spec)), tuple(_block(spec, number) for number in range(spec.depth)))


def _around(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    yield "patch_embed.proj.weight", (stream(0), None, None, None)
    yield "patch_embed.proj.bias", (stream(0),)
    yield from norm("patch_embed.norm", stream(0))
    for stage in range(1, len(spec.stages)):
        cells = Tiled(stream(stage - 1), outer=4)
        yield from norm(f"layers.{stage}.downsample.norm", cells)
        yield from linear(f"layers.{stage}.downsample.reduction", stream(stage), cells, bias=False)
    last = stream(len(spec.stages) - 1)
    yield from norm("norm", last)
    yield from linear("head.fc", None, last) if spec.num_classes else ()


def _block(spec: ArchSpec, number: int) -> Axes:
    width, found = stream(spec.place(number)[0]), Axes()
    for position, branch in enumerate(spec.blocks[number]):
        if branch is None:
            continue
        found |= dict(norm(f"norm{position + 1}", width))
        if position == ATTN:
            found["attn.relative_position_bias_table"] = (None, Inner(number, ATTN, "heads"))
            found |= dict(attention_layout(number, ATTN, width, qkv_bias=spec.options.qkv_bias))
        else:
            found |= dict(mlp_layout(number, MLP, width))
        found |= gate_axes(GATES[position], branch.gate)
    return found


# Smaller relatives


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """All streams and branches; windows, shifts and tables of biases stay."""
    return replace(spec, stages=narrow_stages(spec.stages, ratio, cut))


def at_size(spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
    """For images that whole patches make up; windows stay, and grids are padded to whole ones."""
    for side, patch in zip(size, spec.options.patch_size, strict=True):
        if side <= 0 or side % patch:
            raise UserError(f"img_size: {side} is not a multiple of the patch size {patch}")
    return replace(spec, img_size=size)
