"""Read the ArchSpec off a model of timm's Eva class, or refuse a kind that is not supported, by its name."""

from typing import Any

from timm.layers import AttentionRope, RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed
from timm.models.eva import Eva, EvaAttention, EvaBlock

from lightning_vitc.networks.blocks import Stage
from lightning_vitc.networks.families.eva import layers
from lightning_vitc.networks.families.eva.layers import MixedAttention
from lightning_vitc.networks.families.eva.shape import MIXED, Options
from lightning_vitc.networks.families.plain.read import (
    block_of,
    common_options,
    known_options,
    parts_of,
    refuse_other_branches,
    refuse_other_trunks,
)
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse

ROPES = {RotaryEmbeddingCat: "cat", RotaryEmbeddingDinoV3: "dinov3", RotaryEmbeddingMixed: MIXED}


def read(model: Any) -> ArchSpec | None:
    """The architecture of a model of timm's Eva class; `None` for a model of another class.

    Raises:
        UserError: for a kind that is not supported: grouped queries, norms behind branches, ...
    """
    if not isinstance(model, Eva):
        return None
    name = name_of(model)
    refuse_other_trunks(model, name)
    _refuse_other_kinds(model, name)
    stage = Stage(model.embed_dim, tuple(block_of(block) for block in model.blocks))
    return ArchSpec(
        name=name, family="eva", img_size=tuple(model.patch_embed.img_size),
        in_chans=model.patch_embed.proj.in_channels, num_classes=model.num_classes, stages=(stage,),
        options=_options(model),
    )  # fmt: skip


def _options(model: Any) -> Options:
    attns, _, _ = parts_of(model.blocks)
    known: Any = known_options(model)
    return Options(
        **common_options(model, known),
        **(biases(attns[0]) if attns else known_biases(known)),
        **_rope(model, known),
        reg_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        **gains_of(model.blocks, known),
    )


def gains_of(blocks: Any, known: Any) -> dict[str, Any]:
    """Which branches have any."""
    of_attn, of_mlp = (
        [gain is not None for block in blocks if getattr(block, branch) is not None for gain in [getattr(block, name)]]
        for branch, name in (("attn", "gamma_1"), ("mlp", "gamma_2"))
    )
    if known is not None and not (of_attn and of_mlp):  # those that are left do not tell of the others
        return {"layer_scale": known.layer_scale, "mlp_gains": known.mlp_gains}
    return {"layer_scale": any(of_attn), "mlp_gains": any(of_mlp) or not any(of_attn)}


def biases(attn: Any) -> dict[str, Any]:
    """How queries, keys and values are projected."""
    if getattr(attn, "qkv", None) is None:
        keys, queries = attn.k_proj.bias is not None, attn.q_proj.bias is not None
        return {"split_qkv": True, "qkv_bias": queries, "key_bias": keys or not queries}
    partial = getattr(attn, "q_bias", None) is not None
    return {"split_qkv": False, "qkv_bias": partial or attn.qkv.bias is not None, "key_bias": not partial}


def known_biases(known: Any) -> dict[str, Any]:
    """The same of a network of this library without attention."""
    return {"split_qkv": known.split_qkv, "qkv_bias": known.qkv_bias, "key_bias": known.key_bias}


def _rope(model: Any, known: Any) -> dict[str, Any]:
    rope, learned = model.rope, [block.attn for block in model.blocks if isinstance(block.attn, MixedAttention)]
    if rope is None and known is not None and known.rope == MIXED:
        first: Any = learned[0] if learned else None
        return {name: value for name, value in vars(known).items() if name.startswith("rope")} | (
            {} if first is None else {"rope_temperature": first.temperature, "rope_indexing": first.indexing}
        )
    if rope is None:
        return {}
    if isinstance(rope, RotaryEmbeddingMixed):
        width = rope.dim // rope.num_heads
        return {"rope": MIXED, "rope_dim": width, "rope_bands": tuple(range(width // 2)),
                "rope_temperature": float(rope.temperature), "rope_indexing": rope.grid_indexing}  # fmt: skip
    reference = getattr(rope, "ref_feat_shape", None)
    return {
        "rope": ROPES[type(rope)], "rope_dim": rope.dim, "rope_temperature": float(rope.temperature),
        "rope_bands": tuple(range(rope.dim // 4)) if known is None else known.rope_bands,
        "rope_offset": float(rope.grid_offset), "rope_indexing": rope.grid_indexing, "rope_half": rope.rotate_half,
        "rope_rescale": float(getattr(rope, "rescale_coords", None) or 0),
        "rope_reference": (0, 0) if reference is None else tuple(reference),
    }  # fmt: skip


def _refuse_other_kinds(model: Any, name: str) -> None:
    if model.patch_drop is not None:
        refuse(name, "it drops patches or positions in training")
    for block in model.blocks:
        if type(block) not in (EvaBlock, layers.Block):
            refuse(name, f"its blocks are {type(block).__name__}")
        if block.attn is not None and type(block.attn) not in (EvaAttention, AttentionRope, Attention, MixedAttention):
            refuse(name, f"its attention is a {type(block.attn).__name__}")
        if block.attn is not None and getattr(block.attn, "num_kv_groups", 1) != 1:
            refuse(name, "its queries share keys")
        refuse_other_branches(block, name)
    if model.rope is not None and type(model.rope) not in ROPES:
        refuse(name, f"its positions are a {type(model.rope).__name__}")
    if any(getattr(model.rope, f"{kind}_coords", None) is not None for kind in ("shift", "jitter")):
        refuse(name, "it moves positions in training")
    if model.rope is not None and model.rope.dim % 4:
        refuse(name, f"its heads are {model.rope.dim} wide, no multiple of 4")
