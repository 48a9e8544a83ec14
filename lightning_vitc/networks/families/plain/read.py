"""Read the ArchSpec off a timm VisionTransformer, or refuse a kind that is not supported, by its name."""

from typing import Any

from timm.layers import Attention as TimmAttention
from timm.layers import Mlp, PatchEmbed
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
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse


def read(model: Any) -> ArchSpec | None:
    """The architecture of a plain timm Vision Transformer; `None` for a model of another class.

    Raises:
        UserError: for another kind of it: hybrid stems, relative positions, parallel blocks, gated MLPs, ...
    """
    if not isinstance(model, VisionTransformer):
        return None
    name = name_of(model)
    _refuse_other_kinds(model, name)
    if not len(model.blocks):
        raise UserError(f"model.name: {name} has no blocks")
    embed: Any = model.patch_embed
    stage = Stage(model.embed_dim, tuple(_block(block) for block in model.blocks))
    return ArchSpec(
        name=name, family="plain", img_size=tuple(embed.img_size), in_chans=embed.proj.in_channels,
        num_classes=model.num_classes, stages=(stage,), options=_options(model),
    )  # fmt: skip


def _options(model: Any) -> Options:
    blocks = list(model.blocks)
    attns = [block.attn for block in blocks if block.attn is not None]
    mlps = [block.mlp for block in blocks if block.mlp is not None]
    framed = [norm for block in blocks for norm in (block.norm1, block.norm2) if norm is not None]
    spec = getattr(model, "spec", None)  # of this library's models: tells what no branch is left to tell
    known: Any = None if spec is None else spec.options
    return Options(
        patch_size=tuple(model.patch_embed.patch_size),
        scale=attns[0].scale if attns else known.scale,
        class_token=model.cls_token is not None,
        distilled=isinstance(model, VisionTransformerDistilled),
        reg_tokens=model.num_reg_tokens,
        no_embed_class=model.no_embed_class,
        pos_embed=model.pos_embed is not None,
        global_pool=model.global_pool,
        pool_include_prefix=getattr(model, "pool_include_prefix", False),
        qkv_bias=attns[0].qkv.bias is not None if attns else known.qkv_bias,
        qk_norm=not isinstance(attns[0].q_norm, nn.Identity) if attns else known.qk_norm,
        proj_bias=_ends_with_bias(attns, mlps) if framed else known.proj_bias,
        layer_scale=_has_layer_scale(blocks) if framed else known.layer_scale,
        pre_norm=not isinstance(model.norm_pre, nn.Identity),
        final_norm=not isinstance(model.norm, nn.Identity) or not isinstance(model.fc_norm, nn.Identity),
        fc_norm=not isinstance(model.fc_norm, nn.Identity),
        norm_eps=framed[0].eps if framed else known.norm_eps,
        act=act_name(mlps[0].act) if mlps else known.act,
    )


def _block(block: Any) -> Block:
    of_attn, of_mlp = (gate and gate.name for gate in (getattr(block, "gate1", None), getattr(block, "gate2", None)))
    attn = None
    if block.attn is not None:
        dims = getattr(block.attn, "value_dims", None) or (block.attn.head_dim,) * block.attn.num_heads
        attn = attention(block.attn.head_dim, dims, of_attn)
    return Block((attn, None if block.mlp is None else mlp(block.mlp.fc1.out_features, of_mlp)))


def _ends_with_bias(attns: list[Any], mlps: list[Any]) -> bool:
    return all(last.bias is not None for last in [attn.proj for attn in attns] + [mlp.fc2 for mlp in mlps])


def _has_layer_scale(blocks: list[Any]) -> bool:
    return any(type(ls).__name__ == "LayerScale" for block in blocks for ls in (block.ls1, block.ls2))


def _refuse_other_kinds(model: Any, name: str) -> None:
    if not isinstance(model.patch_embed, PatchEmbed):
        refuse(name, f"its stem is a {type(model.patch_embed).__name__}")
    if not isinstance(model.patch_embed.norm, nn.Identity):
        refuse(name, "its patch embedding is normalized")
    if model.global_pool not in ("token", "avg", "avgmax", "max"):
        refuse(name, f"it pools by {model.global_pool!r}")
    if getattr(model, "dynamic_img_size", False):
        refuse(name, "its image size is dynamic")
    if model.pos_drop.p or not isinstance(model.patch_drop, nn.Identity):
        refuse(name, "it drops patches or positions in training")
    if isinstance(model, VisionTransformerDistilled) and (model.num_reg_tokens or model.no_embed_class):
        refuse(name, "it has a distillation token beside register tokens or no_embed_class")
    if not model.patch_embed.num_patches:
        refuse(name, f"its images, {model.patch_embed.img_size}, are smaller than a patch")
    for block in model.blocks:
        _refuse_other_blocks(block, name)


def _refuse_other_blocks(block: Any, name: str) -> None:
    if type(block) not in (TimmBlock, layers.Block):
        refuse(name, f"its blocks are {type(block).__name__}")
    if block.attn is not None and type(block.attn) not in (TimmAttention, Attention):
        refuse(name, f"its attention is a {type(block.attn).__name__}")
    if block.attn is not None and getattr(block.attn, "gate", None) is not None:
        refuse(name, "its attention is gated")
    if block.mlp is not None and type(block.mlp) is not Mlp:
        refuse(name, f"its MLP is a {type(block.mlp).__name__}")
    inner = [getattr(part, "norm", nn.Identity()) for part in (block.attn, block.mlp) if part is not None]
    if not all(isinstance(norm, nn.Identity) for norm in inner):
        refuse(name, "it normalizes inside attention or MLP")
    for norm in (block.norm1, block.norm2):
        if norm is not None and not isinstance(norm, nn.LayerNorm):
            refuse(name, f"its norms are {type(norm).__name__}")
        if norm is not None and norm.bias is None:
            refuse(name, "its norms have no bias")
    if block.mlp is not None and not act_name(block.mlp.act):
        refuse(name, f"its activation is {type(block.mlp.act).__name__}")
