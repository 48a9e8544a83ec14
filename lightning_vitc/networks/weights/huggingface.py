"""Formats of Hugging Face's transformers: names as its version 5 has them in memory, and those that files keep."""

import torch

from lightning_vitc.networks.weights.renaming import (
    Format,
    Weights,
    X,
    after_the_merge,
    layered,
    packed,
)

LAYER = r"(?:encoder\.layers?|layers|(?:model\.)?layer)\.(?P<i>\d+)\."
BLOCK = r"blocks.\g<i>."
_ATTENTION = {
    r"attention\.(?:(?:attention|self)\.)?(?:q_proj|query)": "attn.q",
    r"attention\.(?:(?:attention|self)\.)?(?:k_proj|key)": "attn.k",
    r"attention\.(?:(?:attention|self)\.)?(?:v_proj|value)": "attn.v",
    r"attention\.(?:o_proj|output\.dense)": "attn.proj",
}
_BLOCK = _ATTENTION | {
    r"(?:mlp\.fc1|intermediate\.dense)": "mlp.fc1",
    r"(?:mlp\.fc2|output\.dense)": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_TABLE = r"(?:attention\.(?:(?:attention|self)\.)?)?(?:relative_position_bias\.)?relative_position_bias_table"
_INDEX = r".*\.relative_position_index"


def _stem(before: str) -> dict[str, str | None]:
    return {
        rf"{before}embeddings\.cls_token": "cls_token",
        rf"{before}embeddings\.mask_token": None,
        rf"{before}embeddings\.position_embeddings": "pos_embed",
        rf"{before}embeddings\.register_tokens": "reg_token",
        rf"{before}embeddings\.patch_embeddings(?:\.projection)?\.{X}": r"patch_embed.proj.\g<x>",
        rf"{before}layernorm\.{X}": r"norm.\g<x>",
        rf"{before}pooler\.dense\.{X}": None,  # of a network that is not for images alone
        rf"classifier\.{X}": r"head.\g<x>",
    }


def _beside_positions(weights: Weights) -> Weights:
    """With registers timm adds no position to the class token, which has its own in it instead."""
    if "reg_token" not in weights or "pos_embed" not in weights:
        return weights
    positions = weights["pos_embed"]
    return weights | {"cls_token": weights["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}


def _gated(weights: Weights) -> Weights:
    """Gates and values in one layer, the gates first, as in timm's `GluMlp`."""
    found = dict(weights)
    for name in weights:
        if ".mlp.gate." in name:
            values = found.pop(name.replace(".gate.", ".up."))
            found[name.replace(".gate.", ".fc1.")] = torch.cat([found.pop(name), values])
    return found


def _split_gates(weights: Weights) -> Weights:
    """A layer for gates and another for values, as in timm's `SwiGLU`, or no gates at all."""
    gated = any(".mlp.gate." in name for name in weights)
    return {
        name.replace(".mlp.gate.", ".mlp.fc1_g.").replace(".mlp.up.", ".mlp.fc1_x." if gated else ".mlp.fc1."): value
        for name, value in weights.items()
    }


def _shaped(weights: Weights) -> Weights:
    """Class token [D] and positions [N, D] of CLIP and SigLIP as timm has them; SigLIP 2's patches as a convolution."""
    found = dict(weights)
    for name in ("cls_token", "pos_embed"):
        if name in found:
            found[name] = found[name].reshape(1, -1, found[name].shape[-1])
    kernel = found.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 2:  # columns are pixels, of each its channels
        side = round((kernel.shape[1] / 3) ** 0.5)
        found["patch_embed.proj.weight"] = kernel.reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
    return found


def _pooling(weights: Weights) -> Weights:
    """Its query by itself, as in timm; none where a classifier reads the mean of all tokens instead."""
    if "head.weight" in weights:
        return {name: value for name, value in weights.items() if not name.startswith("attn_pool.")}
    found = dict(weights)
    for kind in ("weight", "bias"):
        if (rows := found.pop(f"attn_pool.in.{kind}", None)) is not None:
            width = len(rows) // 3
            found |= {f"attn_pool.q.{kind}": rows[:width], f"attn_pool.kv.{kind}": rows[width:]}
    return found


_TOWER = r"(?:vision_model\.)?"
_TWO_TOWERS: dict[str, str | None] = {
    rf"{_TOWER}embeddings\.position_ids": None,
    rf"{_TOWER}embeddings\.position_embedding\.weight": "pos_embed",
    **layered(rf"{_TOWER}encoder\.layers\.(?P<i>\d+)\.", BLOCK, {
        r"self_attn\.q_proj": "attn.q", r"self_attn\.k_proj": "attn.k", r"self_attn\.v_proj": "attn.v",
        r"self_attn\.out_proj": "attn.proj", r"mlp\.fc1": "mlp.fc1", r"mlp\.fc2": "mlp.fc2",
        "layer_norm1": "norm1", "layer_norm2": "norm2",
    }),
    **layered(_TOWER, "", {r"embeddings\.patch_embedding": "patch_embed.proj", "post_layernorm": "norm"}),
    r"text_model\..*|text_projection\..*|logit_scale|logit_bias": None,
}  # fmt: skip

VIT = Format(
    "Hugging Face's ViT", _stem(r"(?:vit\.)?") | layered(rf"(?:vit\.)?{LAYER}", BLOCK, _BLOCK), (packed,),
    models=("vit_*_patch*_224", "vit_*_patch*"),
)  # fmt: skip
DEIT = Format(
    "Hugging Face's DeiT",
    _stem(r"(?:deit\.)?") | layered(rf"(?:deit\.)?{LAYER}", BLOCK, _BLOCK) | {
        r"(?:deit\.)?embeddings\.distillation_token": "dist_token",
        rf"cls_classifier\.{X}": r"head.\g<x>",
        rf"distillation_classifier\.{X}": r"head_dist.\g<x>",
    },
    (packed,), models=("deit_*distilled*",),
)  # fmt: skip
_SCALED = {rf"{LAYER}layer_scale(?P<n>[12])\.lambda1": r"blocks.\g<i>.ls\g<n>.gamma"}
_DINOV2 = r"(?:dinov2(?:_with_registers)?\.)?"
DINOV2 = Format(
    "Hugging Face's Dinov2",
    _stem(_DINOV2) | {f"{_DINOV2}{name}": ours for name, ours in _SCALED.items()}
    | layered(rf"{_DINOV2}{LAYER}", BLOCK, _ATTENTION | {
        "norm1": "norm1", "norm2": "norm2", r"mlp\.(?:fc1|weights_in)": "mlp.fc1",
        r"mlp\.(?:fc2|weights_out|down_proj)": "mlp.fc2", r"mlp\.gate_proj": "mlp.gate", r"mlp\.up_proj": "mlp.up",
    }),
    (packed, _gated, _beside_positions), models=("*_dinov2",),
)  # fmt: skip
_DINOV3 = r"(?:dinov3_vit\.|backbone\.)?"
DINOV3 = Format(
    "Hugging Face's DINOv3",
    _stem(_DINOV3) | {
        rf"{_DINOV3}{LAYER}layer_scale(?P<n>[12])\.lambda1": r"blocks.\g<i>.gamma_\g<n>",
        rf"{_DINOV3}norm\.{X}": r"norm.\g<x>",
    }
    | layered(rf"{_DINOV3}{LAYER}", BLOCK, _ATTENTION | {
        "norm1": "norm1", "norm2": "norm2", r"mlp\.gate_proj": "mlp.gate", r"mlp\.up_proj": "mlp.up",
        r"mlp\.down_proj": "mlp.fc2",
    }),
    (packed, _split_gates), models=("*_dinov3*",),
)  # fmt: skip
SIGLIP = Format(
    "Hugging Face's SigLIP",
    _TWO_TOWERS | {rf"{_TOWER}head\.probe": "attn_pool.latent", rf"classifier\.{X}": r"head.\g<x>",
                   rf"{_TOWER}head\.attention\.in_proj_{X}": r"attn_pool.in.\g<x>"}
    | layered(rf"{_TOWER}head\.", "attn_pool.", {
        r"attention\.out_proj": "proj", "layernorm": "norm", r"mlp\.fc1": "mlp.fc1", r"mlp\.fc2": "mlp.fc2",
    }),
    (packed, _shaped, _pooling), models=("vit_*_siglip_*",),
)  # fmt: skip
CLIP = Format(
    "Hugging Face's CLIP",
    _TWO_TOWERS | {rf"{_TOWER}embeddings\.class_embedding": "cls_token", r"visual_projection\.weight": "head.weight",
                   rf"{_TOWER}pre_layrnorm\.{X}": r"norm_pre.\g<x>"},
    (packed, _shaped), models=("vit_*_clip_*",),
)  # fmt: skip
BEIT = Format(
    "Hugging Face's BEiT",
    _stem(r"(?:beit\.)?") | layered(rf"(?:beit\.)?{LAYER}", BLOCK, _BLOCK) | {
        rf"(?:beit\.)?{LAYER}lambda_(?P<n>[12])": r"blocks.\g<i>.gamma_\g<n>",
        rf"(?:beit\.)?{LAYER}{_TABLE}": r"blocks.\g<i>.attn.relative_position_bias_table",
        _INDEX: None,
        rf"(?:beit\.)?pooler\.layernorm\.{X}": r"fc_norm.\g<x>",
    },
    (packed,), models=("beit*",),
)  # fmt: skip
_STAGE = r"(?:swin\.)?encoder\.layers\.(?P<s>\d+)\."
SWIN = Format(
    "Hugging Face's Swin",
    layered(r"(?:swin\.)?", "", {
        r"embeddings\.patch_embeddings\.projection": "patch_embed.proj", r"embeddings\.norm": "patch_embed.norm",
        "layernorm": "norm",
    })
    | layered(rf"{_STAGE}blocks\.(?P<i>\d+)\.", r"layers.\g<s>.blocks.\g<i>.", _BLOCK)
    | layered(_STAGE, r"layers.\g<s>.", {
        r"downsample\.norm": "downsample.norm", r"downsample\.reduction": "downsample.reduction",
    })
    | {
        rf"{_STAGE}blocks\.(?P<i>\d+)\.{_TABLE}": r"layers.\g<s>.blocks.\g<i>.attn.relative_position_bias_table",
        _INDEX: None, r"(?:swin\.)?embeddings\.mask_token": None, rf"classifier\.{X}": r"head.fc.\g<x>",
    },
    (packed, after_the_merge), models=("swin_*",),
)  # fmt: skip

FORMATS = (VIT, DEIT, DINOV2, DINOV3, SIGLIP, CLIP, BEIT, SWIN)
