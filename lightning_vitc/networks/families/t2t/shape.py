"""T2T-ViT (Yuan et al., ICCV 2021): options, costs, weights and smaller relatives.

Overlapping patches of 7x7 pixels become tokens of `token_width`; twice they are put side by side again, 3x3 of them.
Before either time a token layer mixes them: a performer, an attention by random features without softmax, or an
attention with one. Then plain blocks follow.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Axis, Layout, Tiled, linear, norm, stream
from lightning_vitc.networks.blocks import ATTN, MLP, narrow_stages
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

EXAMPLES = ("t2t_vit_14",)
GATES = ("gate1", "gate2")
BEFORE, BEHIND = ("cls_token", "pos_embed", "tokens_to_token."), ("norm.",)
TOKEN = "token"  # the axis of the tokens inside of the token layers
FIRST, LATER = 7 * 7, 3 * 3  # positions that are put side by side
TOKEN_LAYERS = ("performer", "softmax")


@dataclass(frozen=True)
class Options:
    """`scale` is the factor on QKᵀ of the blocks: it is that of a head, or, where the authors fetch weights, of all."""

    scale: float
    token_layers: str = "performer"
    token_width: int = 64
    features: int = 32  # random ones of a performer
    qkv_bias: bool = False
    norm_eps: float = 1e-5
    act: str = "gelu"

    @property
    def class_token(self) -> bool:
        """It always has one."""
        return True

    def __post_init__(self) -> None:
        """Refuse other token layers."""
        if self.token_layers not in TOKEN_LAYERS:
            raise ValueError(f"token_layers: {self.token_layers!r} is not one of {', '.join(TOKEN_LAYERS)}")


def grid_sides(spec: ArchSpec) -> tuple[int, int, int]:
    """Of the first tokens, of the second and of those that run through the blocks."""
    first = (spec.img_size[0] + 4 - 7) // 4 + 1
    second = (first + 2 - 3) // 2 + 1
    return first, second, (second + 2 - 3) // 2 + 1


def positions(spec: ArchSpec) -> tuple[int, ...]:
    """Tokens of the blocks, the class token among them."""
    return (grid_sides(spec)[-1] ** 2 + 1,)


def token_layers(spec: ArchSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Positions and input width of both."""
    first, second, _ = grid_sides(spec)
    return (first**2, FIRST * spec.in_chans), (second**2, LATER * spec.options.token_width)


def attended(spec: ArchSpec) -> tuple[int, ...]:
    """All tokens among themselves."""
    return tuple(count * count for count in positions(spec))


# Costs


def parts(spec: ArchSpec) -> Parts:
    """Multiply-accumulates of one image by part."""
    o, dim, (tokens,) = spec.options, spec.embed_dim, positions(spec)
    count = Counter(tokens_to_token=_token_linear(spec), token_attention=_token_products(spec))
    for _, position, branch in spec.branches():
        count.update((attention_macs if position == ATTN else mlp_macs)(branch, dim, tokens))
    count["tokens_to_token"] += (tokens - 1) * LATER * o.token_width * dim
    count["gates"] = gates_macs(spec)
    count["classifier"] = dim * spec.num_classes
    return dict(count)


def _token_linear(spec: ArchSpec) -> int:
    """Keys, queries and values, the projection and two layers."""
    e = spec.options.token_width
    return sum(n * (width * 3 * e + 3 * e * e) for n, width in token_layers(spec))


def _token_products(spec: ArchSpec) -> int:
    """Of a performer two feature maps, two products with them, and the denominator; else QKᵀ and AV."""
    e, m, softmax = spec.options.token_width, spec.options.features, spec.options.token_layers == "softmax"
    return sum(2 * n * n * e if softmax else n * (4 * e * m + m) for n, _ in token_layers(spec))


def params(spec: ArchSpec) -> int:
    """Parameters; random features and positions, which are not trained, among them."""
    o, dim = spec.options, spec.embed_dim
    total = sum(_token_params(o, width) for _, width in token_layers(spec))
    total += dim * (LATER * o.token_width + 1) + dim * (1 + positions(spec)[0]) + 2 * dim  # project, tokens, norm
    total += spec.num_classes * (dim + 1) if spec.num_classes else 0
    for _, position, branch in spec.branches():
        total += 2 * dim
        total += attention_params(branch, dim, o.qkv_bias) if position == ATTN else mlp_params(branch, dim)
    return total + gates_params(spec)


def _token_params(o: Options, width: int) -> int:
    e = o.token_width
    own = 0 if o.token_layers == "softmax" else 3 * e + o.features * e  # biases and random features
    return 2 * width + 3 * e * width + own + 2 * e + 3 * e * (e + 1)


def _uvc(spec: ArchSpec) -> Parts:
    count = parts(spec) | {"classifier": 0}
    for _, position, branch in spec.branches():
        if position == ATTN:  # a pruned value dimension still costs its row of the value projection
            count["qkv"] += positions(spec)[0] * spec.embed_dim * (branch.query_width - branch.width)
    return count


def _dcvit(spec: ArchSpec) -> Parts:
    normed = positions(spec)[0] * spec.embed_dim * (1 + sum(1 for _ in spec.branches()))
    normed += sum(n * (width + spec.options.token_width) for n, width in token_layers(spec))
    return parts(spec) | {"token_attention": 0, "qk": 0, "av": 0, "norm": 4 * normed}


PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": _dcvit, "practise": _dcvit, "uvc": _uvc, "one_shot": _uvc, "scala": parts, "usdc": parts,
}  # fmt: skip


# Weights


def block_prefix(stage: int, number: int) -> str:
    """As in the authors' files."""
    return f"blocks.{number}."


def entry(stage: int) -> tuple[str, ...]:
    """There is but one stage."""
    return ()


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(dict(_around(spec)), tuple(_block(spec, number) for number in range(spec.depth)))


def _around(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    embed = stream(0)
    yield "cls_token", (None, None, embed)
    yield "pos_embed", (None, None, embed)
    for number, columns in ((1, None), (2, Tiled(TOKEN, inner=LATER))):
        yield from _token_layer(spec, f"tokens_to_token.attention{number}.", columns)
    yield from linear("tokens_to_token.project", embed, Tiled(TOKEN, inner=LATER))
    yield from norm("norm", embed)
    yield from linear("head", None, embed) if spec.num_classes else ()


def _token_layer(spec: ArchSpec, name: str, columns: Axis) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    softmax = spec.options.token_layers == "softmax"
    projection, output, first, second = (
        ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") if softmax else ("kqv", "proj", "mlp.0", "mlp.2")
    )
    yield from () if softmax else ((f"{name}w", (None, TOKEN)),)
    yield from norm(f"{name}norm1", columns)
    yield from linear(f"{name}{projection}", Tiled(TOKEN, outer=3), columns, not softmax)
    yield from norm(f"{name}norm2", TOKEN)
    for layer in (output, first, second):
        yield from linear(f"{name}{layer}", TOKEN, TOKEN)


def _block(spec: ArchSpec, number: int) -> Axes:
    found: Axes = {}
    for position, branch in enumerate(spec.blocks[number]):
        if branch is not None:
            found |= dict(norm(f"norm{position + 1}", stream(0))) | _branch(spec, number, position)
            found |= gate_axes(GATES[position], branch.gate)
    return found


def _branch(spec: ArchSpec, number: int, position: int) -> Axes:
    if position == MLP:
        return dict(mlp_layout(number, MLP, stream(0)))
    return dict(attention_layout(number, ATTN, stream(0), qkv_bias=spec.options.qkv_bias))


# Smaller relatives


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """The blocks; what makes the tokens stays whole, but for the rows of its last layer."""
    return replace(spec, stages=narrow_stages(spec.stages, ratio, cut))


def at_size(spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
    """For squares of 16 pixels times 16 pixels and so on."""
    if size[0] != size[1] or size[0] <= 0 or size[0] % 16:
        raise UserError(f"img_size: {size[0]}x{size[1]} is not a square whose side is a multiple of 16")
    return replace(spec, img_size=size)
