"""Read the ArchSpec off a timm VisionTransformer, or refuse a kind that is not supported, by its name."""

from collections.abc import Sequence
from typing import Any

from timm.layers import Attention as TimmAttention
from timm.layers import GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import Block, Stage, attention, mlp
from lightning_vitc.networks.families.plain import layers
from lightning_vitc.networks.families.plain.shape import Options
from lightning_vitc.networks.modules.activations import act_name
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.norms import KINDS
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse

POOLS = ("token", "avg", "avgmax", "max", "map")


def read(model: Any) -> ArchSpec | None:
    """The architecture of a plain timm Vision Transformer; `None` for a model of another class.

    Raises:
        UserError: for another kind of it: hybrid stems, relative positions, parallel blocks, gated MLPs, ...
    """
    if not isinstance(model, VisionTransformer):
        return None
    name = name_of(model)
    _refuse_other_kinds(model, name)
    embed: Any = model.patch_embed
    stage = Stage(model.embed_dim, tuple(block_of(block) for block in model.blocks))
    return ArchSpec(
        name=name, family="plain", img_size=tuple(embed.img_size), in_chans=embed.proj.in_channels,
        num_classes=model.num_classes, stages=(stage,), options=_options(model),
    )  # fmt: skip


def _options(model: Any) -> Options:
    blocks = list(model.blocks)
    attns, mlps, framed = parts_of(blocks)
    known: Any = known_options(model)
    return Options(
        **common_options(model, known),
        distilled=isinstance(model, VisionTransformerDistilled),
        reg_tokens=model.num_reg_tokens,
        pool_include_prefix=getattr(model, "pool_include_prefix", False),
        qkv_bias=attns[0].qkv.bias is not None if attns else known.qkv_bias,
        proj_bias=_ends_with_bias(attns, mlps) if framed else known.proj_bias,
        layer_scale=_has_layer_scale(blocks) if framed else known.layer_scale,
    )


def known_options(model: Any) -> Any:
    """Those of this library's models, which tell what no branch is left to tell."""
    spec = getattr(model, "spec", None)
    return None if spec is None else spec.options


def parts_of(blocks: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The attentions, the MLPs and the norms before them that are left."""
    attns = [block.attn for block in blocks if block.attn is not None]
    mlps = [block.mlp for block in blocks if block.mlp is not None]
    return attns, mlps, [norm for block in blocks for norm in (block.norm1, block.norm2) if norm is not None]


def common_options(model: Any, known: Any) -> dict[str, Any]:
    """What Vision Transformers of several classes of timm are read alike for."""
    attns, mlps, framed = parts_of(model.blocks)
    pool = getattr(model, "attn_pool", None)
    return dict(
        patch_size=tuple(model.patch_embed.patch_size),
        scale=attns[0].scale if attns else known.scale,
        class_token=model.cls_token is not None,
        no_embed_class=getattr(model, "no_embed_class", False),
        pos_embed=model.pos_embed is not None,
        global_pool=model.global_pool,
        qk_norm=not isinstance(getattr(attns[0], "q_norm", nn.Identity()), nn.Identity) if attns else known.qk_norm,
        pre_norm=not isinstance(getattr(model, "norm_pre", nn.Identity()), nn.Identity),
        final_norm=not isinstance(model.norm, nn.Identity) or not isinstance(model.fc_norm, nn.Identity),
        fc_norm=not isinstance(model.fc_norm, nn.Identity),
        norm_eps=framed[0].eps if framed else known.norm_eps,
        act=act_name(mlps[0].act) if mlps else known.act,
        norm=norm_kind(framed[0]) if framed else known.norm,
        embed_norm=not isinstance(model.patch_embed.norm, nn.Identity),
        attn_norm=_is_normed(attns[0]) if attns else known.attn_norm,
        mlp_norm=_is_normed(mlps[0]) if any(mlp.fc2.in_features for mlp in mlps) else getattr(known, "mlp_norm", False),
        split_glu=isinstance(mlps[0], SwiGLU) if mlps else known.split_glu,
        pool_heads=0 if pool is None else pool.num_heads,
        pool_hidden=0 if pool is None else pool.mlp.fc1.out_features,
    )


def _is_normed(branch: Any) -> bool:
    return not isinstance(getattr(branch, "norm", nn.Identity()), nn.Identity)


def norm_kind(norm: Any) -> str:
    """`layer` or `rms`; empty for another one."""
    return next((kind for kind, cls in KINDS.items() if type(norm) is cls or type(norm).__base__ is cls), "")


def block_of(block: Any) -> Block:
    """The branches of a block of timm or of this library."""
    of_attn, of_mlp = (gate and gate.name for gate in (getattr(block, "gate1", None), getattr(block, "gate2", None)))
    attn = None
    if block.attn is not None:
        heads = block.attn.num_heads
        query = getattr(block.attn, "head_dim", block.attn.proj.in_features // heads)  # timm's BEiT does not tell
        attn = attention(query, getattr(block.attn, "value_dims", None) or (query,) * heads, of_attn)
    if block.mlp is None:
        return Block((attn, None))
    kind = "mlp" if type(block.mlp) is Mlp else "glu"
    return Block((attn, mlp(block.mlp.fc2.in_features, of_mlp, kind)))


def _ends_with_bias(attns: list[Any], mlps: list[Any]) -> bool:
    return all(last.bias is not None for last in [attn.proj for attn in attns] + [mlp.fc2 for mlp in mlps])


def _has_layer_scale(blocks: list[Any]) -> bool:
    return any(type(ls).__name__ == "LayerScale" for block in blocks for ls in (block.ls1, block.ls2))


def _refuse_other_kinds(model: Any, name: str) -> None:
    refuse_other_trunks(model, name)
    if not isinstance(model.patch_drop, nn.Identity):
        refuse(name, "it drops patches or positions in training")
    if isinstance(model, VisionTransformerDistilled) and (model.num_reg_tokens or model.no_embed_class):
        refuse(name, "it has a distillation token beside register tokens or no_embed_class")
    for block in model.blocks:
        if type(block) not in (TimmBlock, layers.Block):
            refuse(name, f"its blocks are {type(block).__name__}")
        if block.attn is not None and type(block.attn) not in (TimmAttention, Attention):
            refuse(name, f"its attention is a {type(block.attn).__name__}")
        refuse_other_branches(block, name)


def refuse_other_trunks(model: Any, name: str) -> None:
    """What of a Vision Transformer of any class of timm cannot be described, but for its blocks."""
    if not isinstance(model.patch_embed, PatchEmbed):
        refuse(name, f"its stem is a {type(model.patch_embed).__name__}")
    if model.global_pool not in POOLS:
        refuse(name, f"it pools by {model.global_pool!r}")
    if model.pos_drop.p:
        refuse(name, "it drops patches or positions in training")
    if not model.patch_embed.num_patches:
        refuse(name, f"its images, {model.patch_embed.img_size}, are smaller than a patch")
    if not len(model.blocks):
        raise UserError(f"model.name: {name} has no blocks")
    around = [getattr(model, at, nn.Identity()) for at in ("norm_pre", "norm", "fc_norm")]
    norms = [norm for norm in (model.patch_embed.norm, *around) if not isinstance(norm, nn.Identity)]
    first = next((norm for block in model.blocks if (norm := getattr(block, "norm1", None)) is not None), None)
    if first is not None and any((norm_kind(norm), norm.eps) != (norm_kind(first), first.eps) for norm in norms):
        refuse(name, "its norms differ")


def refuse_other_branches(block: Any, name: str) -> None:
    """What of a block's branches cannot be described."""
    if block.attn is not None and getattr(block.attn, "gate", None) is not None:
        refuse(name, "its attention is gated")
    if block.mlp is not None and type(block.mlp) not in (Mlp, GluMlp, SwiGLU):
        refuse(name, f"its MLP is a {type(block.mlp).__name__}")
    if getattr(block.mlp, "gate_last", False):
        refuse(name, "its MLP has its gates behind the values")
    for norm in (block.norm1, block.norm2):
        if norm is not None and not norm_kind(norm):
            refuse(name, f"its norms are {type(norm).__name__}")
        if isinstance(norm, nn.LayerNorm) and norm.bias is None:
            refuse(name, "its norms have no bias")
    if block.mlp is not None and not act_name(block.mlp.act):
        refuse(name, f"its activation is {type(block.mlp.act).__name__}")
