"""Plain Vision Transformers (ViT, DeiT, DeiT-III, DINOv2, ...): options, costs, weights and smaller relatives."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Axes, Axis, Layout, linear, norm, stream
from lightning_vitc.networks.blocks import ATTN, MLP, Block, Branch, Stage, mlp, narrow_stages, scaled
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
from lightning_vitc.networks.latent_pooling import HIDDEN, pool_layout, pool_macs, pool_params
from lightning_vitc.networks.spec import ArchSpec

EXAMPLES = ("vit_small_patch16_224", "deit_small_distilled_patch16_224", "deit3_small_patch16_224")
PART_NAMES = ("patch_embed", "qkv", "qk", "av", "proj", "mlp", "norm", "classifier", "gates")
BLOCK = ((("norm1", "attn", "ls1", "gate1")), ("norm2", "mlp", "ls2", "gate2"))  # timm's names, by branch
BEFORE = ("cls_token", "dist_token", "reg_token", "pos_embed", "pos_drop.", "patch_embed.", "patch_drop.", "norm_pre.")
BEHIND = ("norm.",)


@dataclass(frozen=True)
class Options:
    """What timm's `VisionTransformer` is told, by timm's names.

    `scale` is the factor on QKᵀ: a sub-network may carry that of the network it was cut from. `act` is a name that
    timm's `get_act_layer` knows, `norm` is `layer` or `rms`. `embed_norm` follows the patches, `attn_norm` and
    `mlp_norm` stand inside the branches, before their last projection. `split_glu`, `split_qkv` and `key_bias` (whether
    keys have a bias where queries and values do) are told in `branch_layouts`; `pool_heads` and `pool_hidden` are of
    `global_pool: map`, see `latent_pooling`. Without `mlp_gains`, `layer_scale` is of attentions alone.
    """

    patch_size: tuple[int, int]
    scale: float
    class_token: bool = True
    distilled: bool = False
    reg_tokens: int = 0
    no_embed_class: bool = False
    pos_embed: bool = True
    global_pool: str = "token"
    pool_include_prefix: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    layer_scale: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool = False
    norm_eps: float = 1e-6
    act: str = "gelu"
    norm: str = "layer"
    embed_norm: bool = False
    attn_norm: bool = False
    mlp_norm: bool = False
    split_glu: bool = False
    split_qkv: bool = False
    key_bias: bool = True
    mlp_gains: bool = True
    pool_heads: int = 0
    pool_hidden: int = 0

    @property
    def norm_bias(self) -> bool:
        """Of every norm."""
        return self.norm == "layer"

    @property
    def pool_act(self) -> str:
        """Of the MLP of the pooling."""
        return self.act

    @property
    def pool_sees_prefix(self) -> bool:
        """Whether an attention that pools sees class and register tokens too."""
        return self.pool_include_prefix

    @property
    def axes(self) -> dict[str, int]:
        """The sizes of axes that are neither a stream's nor a branch's."""
        return {HIDDEN: self.pool_hidden} if self.pool_heads else {}

    @property
    def prefix_tokens(self) -> int:
        """Class, distillation and register tokens."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens


def vit(name: str, img_size: tuple[int, int], patch_size: tuple[int, int], in_chans: int, num_classes: int,
          embed_dim: int, blocks: Sequence[Block], scale: float, **options: Any) -> ArchSpec:  # fmt: skip
    """A plain Vision Transformer; `options` are further fields of `Options`."""
    stage = Stage(embed_dim, tuple(blocks))
    return ArchSpec(name, "plain", img_size, in_chans, num_classes, (stage,), Options(patch_size, scale, **options))


def vit_block(attn: Branch | None, hidden: int | None) -> Block:
    """A block; a branch that is `None` is gone, together with its norm."""
    return Block((attn, None if hidden is None else mlp(hidden)))


def grid(spec: ArchSpec) -> tuple[int, int]:
    """Patches of an image, down and across."""
    (height, width), (down, across) = spec.img_size, spec.options.patch_size
    return height // down, width // across


def patches(spec: ArchSpec) -> int:
    """Patches of an image."""
    down, across = grid(spec)
    return down * across


def positions(spec: ArchSpec) -> tuple[int, ...]:
    """Tokens that run through the blocks."""
    return (patches(spec) + spec.options.prefix_tokens,)


def classifiers(spec: ArchSpec) -> int:
    """Two with a distillation token, else one."""
    return 2 if spec.options.distilled else 1


def attended(spec: ArchSpec) -> tuple[int, ...]:
    """All tokens among themselves."""
    return tuple(count * count for count in positions(spec))


# Costs


def parts(spec: ArchSpec) -> Parts:
    """Multiply-accumulates of one image by part."""
    count = Counter(dict.fromkeys(PART_NAMES, 0))
    dim, (tokens,) = spec.embed_dim, positions(spec)
    patch = spec.options.patch_size[0] * spec.options.patch_size[1]
    count["patch_embed"] = patches(spec) * dim * spec.in_chans * patch
    for _, position, branch in spec.branches():
        count.update((attention_macs if position == ATTN else mlp_macs)(branch, dim, tokens))
    count["gates"] = gates_macs(spec)
    count["classifier"] = classifiers(spec) * dim * spec.num_classes
    if spec.options.pool_heads:
        seen = tokens if spec.options.pool_sees_prefix else patches(spec)
        count["pool"] = pool_macs(dim, seen, spec.options.pool_hidden)
    return dict(count)


def params(spec: ArchSpec) -> int:
    """Parameters."""
    o, dim = spec.options, spec.embed_dim
    embed = dim * (spec.in_chans * o.patch_size[0] * o.patch_size[1] + (not o.pre_norm)) + o.prefix_tokens * dim
    if o.pos_embed:
        embed += dim * (patches(spec) + (0 if o.no_embed_class else o.prefix_tokens))
    norms = norm_params(o, dim) * (int(o.embed_norm) + int(o.pre_norm) + int(o.final_norm))
    norms += pool_params(dim, o.pool_hidden, o.norm_bias) if o.pool_heads else 0
    heads = classifiers(spec) * spec.num_classes * (dim + 1) if spec.num_classes else 0
    branches = sum(_branch_params(spec, position, branch) for _, position, branch in spec.branches())
    return embed + norms + heads + branches + gates_params(spec)


def norm_params(options: Any, width: int) -> int:
    """Of one norm."""
    return (1 + options.norm_bias) * width


def _branch_params(spec: ArchSpec, position: int, branch: Branch) -> int:
    o, dim = spec.options, spec.embed_dim
    total = norm_params(o, dim) + (dim if o.layer_scale and (position == ATTN or o.mlp_gains) else 0)
    if position == MLP:
        return total + mlp_params(branch, dim, o.proj_bias) + (norm_params(o, branch.width) if o.mlp_norm else 0)
    total += attention_params(branch, dim, o.qkv_bias, o.proj_bias, o.key_bias)
    total += norm_params(o, branch.width) if o.attn_norm else 0
    return total + (2 * norm_params(o, branch.query) if o.qk_norm else 0)


def _uvc(spec: ArchSpec) -> Parts:
    count = parts(spec) | {"classifier": 0}
    for _, position, branch in spec.branches():
        if position == ATTN:  # a pruned value dimension still costs its row of the value projection
            count["qkv"] += positions(spec)[0] * spec.embed_dim * (branch.query_width - branch.width)
    return count


def _dcvit(spec: ArchSpec) -> Parts:
    o = spec.options
    norms = sum(1 for _ in spec.branches()) + int(o.pre_norm) + int(o.final_norm)
    inner = sum(b.width for _, position, b in spec.branches() if (o.mlp_norm if position == MLP else o.attn_norm))
    normed = positions(spec)[0] * (spec.embed_dim * norms + inner) + o.embed_norm * patches(spec) * spec.embed_dim
    return parts(spec) | {"qk": 0, "av": 0, "norm": 4 * normed}


PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = {
    "dcvit": _dcvit, "practise": _dcvit, "uvc": _uvc, "one_shot": _uvc, "scala": parts, "usdc": parts,
}  # fmt: skip


# Weights


def block_prefix(stage: int, number: int) -> str:
    """As in timm."""
    return f"blocks.{number}."


def entry(stage: int) -> tuple[str, ...]:
    """There is but one stage."""
    return ()


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict."""
    return Layout(dict(_around(spec)), tuple(_block(spec, number) for number in range(spec.depth)))


def _around(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    o, embed = spec.options, stream(0)
    yield "patch_embed.proj.weight", (embed, None, None, None)
    if not o.pre_norm:
        yield "patch_embed.proj.bias", (embed,)
    given = {
        "cls_token": o.class_token, "dist_token": o.distilled, "reg_token": o.reg_tokens > 0, "pos_embed": o.pos_embed,
    }  # fmt: skip
    yield from ((name, (None, None, embed)) for name, there in given.items() if there)
    last = "fc_norm" if o.fc_norm else "norm"
    for name, there in {"patch_embed.norm": o.embed_norm, "norm_pre": o.pre_norm, last: o.final_norm}.items():
        yield from norm(name, embed, o.norm_bias) if there else ()
    yield from pool_layout(embed, o.norm_bias) if o.pool_heads else ()
    for name in ("head", "head_dist")[: classifiers(spec)] if spec.num_classes else ():
        yield from linear(name, None, embed)


def _block(spec: ArchSpec, number: int) -> Axes:
    o, embed, found = spec.options, stream(0), Axes()
    for position, branch in enumerate(spec.blocks[number]):
        if branch is None:
            continue
        norm_name, _, scale, gate = BLOCK[position]
        found |= dict(norm(norm_name, embed, o.norm_bias))
        found |= branch_layout(spec, number, position, branch)
        found |= {f"{scale}.gamma": (embed,)} if o.layer_scale else {}
        found |= gate_axes(gate, branch.gate)
    return found


def branch_layout(spec: ArchSpec, number: int, position: int, branch: Branch) -> Axes:
    """Of a branch without what stands around it."""
    o, embed = spec.options, stream(0)
    if position == ATTN:
        return dict(attention_layout(
            number, ATTN, embed, qkv_bias=o.qkv_bias, qk_norm=o.qk_norm, proj_bias=o.proj_bias, key_bias=o.key_bias,
            split=o.split_qkv, norm_bias=o.norm_bias, inner_norm=o.attn_norm,
        ))  # fmt: skip
    return dict(mlp_layout(
        number, MLP, embed, bias=o.proj_bias, kind=branch.kind, split=o.split_glu, norm_bias=o.norm_bias,
        inner_norm=o.mlp_norm and branch.width > 0,
    ))  # fmt: skip


# Smaller relatives


def narrow(spec: ArchSpec, ratio: Fraction, cut: str) -> ArchSpec:
    """`ratio` of the embedding, attention and hidden widths."""
    smaller, o = replace(spec, stages=narrow_stages(spec.stages, ratio, cut)), spec.options
    if not o.pool_heads:
        return smaller
    scaled(spec.embed_dim // o.pool_heads, ratio, "the pooling's head width")
    return smaller.with_options(pool_hidden=scaled(o.pool_hidden, ratio, "the pooling's hidden width"))


def paired(spec: ArchSpec, smaller: ArchSpec, rule: str, end: str) -> tuple[ArchSpec, tuple[int, ...] | None]:
    """See `slicing.slice_width`: the same network, of which a head keeps the dimensions at the end.

    Raises:
        UserError: for the rule that cuts a packed projection as one, where there is none, or its biases are not.
    """
    if rule == "official" and (spec.options.split_qkv or not spec.options.key_bias):
        raise UserError(
            f"slice: official cuts queries, keys and values as one, which {spec.name} has apart; use per_head or heads"
        )
    return smaller, None


def at_size(spec: ArchSpec, size: tuple[int, int]) -> ArchSpec:
    """For images that whole patches make up."""
    for side, patch in zip(size, spec.options.patch_size, strict=True):
        if side <= 0 or side % patch:
            below, above = side // patch * patch, max(side // patch + 1, 1) * patch
            near = f"{below} or {above}" if below > 0 else f"{above}"
            raise UserError(f"img_size: {side} is not a multiple of the patch size {patch}; try {near}")
    return replace(spec, img_size=size)
