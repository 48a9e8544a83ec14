"""Read the ArchSpec off a timm SwinTransformer, or refuse a kind that is not supported, by its name."""

from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import Block, Stage, attention, mlp
from lightning_vitc.networks.families.swin.shape import Options
from lightning_vitc.networks.modules.activations import act_name
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse


def read(model: Any) -> ArchSpec | None:
    """The architecture of a Swin Transformer; `None` for a model of another class.

    Raises:
        UserError: for another kind of it: images of any size, windows that are no squares.
    """
    return _read(model) if isinstance(model, SwinTransformer) else None


def _read(model: Any) -> ArchSpec:
    size, classes = tuple(model.patch_embed.img_size), model.num_classes
    if (spec := getattr(model, "spec", None)) is not None:  # of this library
        return ArchSpec(spec.name, "swin", size, spec.in_chans, classes, spec.stages, spec.options)
    name = name_of(model)
    layers: list[Any] = list(model.layers)
    _refuse_other_kinds(model, layers, name)
    first = layers[0].blocks[0]
    options = Options(
        patch_size=tuple(model.patch_embed.patch_size), window_size=_windows(model, layers, name),
        scale=first.attn.scale, qkv_bias=first.attn.qkv.bias is not None, norm_eps=first.norm1.eps,
        act=act_name(first.mlp.act), global_pool=model.global_pool,
    )  # fmt: skip
    stages = tuple(
        Stage(layer.blocks[0].dim, tuple(_block(block) for block in layer.blocks)) for layer in layers
    )  # fmt: skip
    return ArchSpec(name, "swin", size, model.in_chans, classes, stages, options)


def _block(block: Any) -> Block:
    heads = block.attn.num_heads
    query = block.attn.qkv.out_features // 3 // heads
    attn = attention(query, (query,) * heads, shift=block.target_shift_size[0])
    return Block((attn, mlp(block.mlp.fc1.out_features)))


def _windows(model: Any, layers: list[Any], name: str) -> tuple[int, ...]:
    """Of each stage, before a grid that is smaller limits it, as far as the model still knows."""
    asked = getattr(model, "_ref_window_sizes", None)
    if asked is None or tuple(model._ref_grid_size) != tuple(model.patch_embed.grid_size):  # resized since
        asked = [layer.blocks[0].window_size for layer in layers]
    found = [(window, window) if isinstance(window, int) else tuple(window) for window in asked]
    if any(high != wide for high, wide in found):
        refuse(name, "its windows are no squares")
    return tuple(high for high, _ in found)


def _refuse_other_kinds(model: Any, layers: list[Any], name: str) -> None:
    if not all(len(layer.blocks) for layer in layers):
        raise UserError(f"model.name: {name} has a stage without blocks")
    if model.dynamic_img_size:
        refuse(name, "it takes images of any size")
    blocks = [block for layer in layers for block in layer.blocks]
    if any(block.always_partition for block in blocks):
        refuse(name, "its windows are not limited by the grid")
    if any(block.target_shift_size[0] != block.target_shift_size[1] for block in blocks):
        refuse(name, "its windows are no squares")
    if len({block.attn.scale for block in blocks}) > 1:
        refuse(name, "the heads of its stages are of several widths")
    if not isinstance(model.norm, nn.LayerNorm) or not act_name(blocks[0].mlp.act):
        refuse(name, f"its norm is a {type(model.norm).__name__}, its activation a {type(blocks[0].mlp.act).__name__}")
