"""Tiny networks of every kind of timm's Eva class, with random weights."""

import timm
import torch

from lightning_vitc.networks.backbone import Backbone, from_timm

DEPTH, HEADS, DIM = 3, 2, 32
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "num_classes": 5,
         "in_chans": 1}  # fmt: skip
KINDS = {
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "dinov3 with biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "dinov3, split swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "eva, no rope": ("eva_giant_patch14_clip_224", {"mlp_ratio": 2}),
    "eva02, packed swiglu": ("eva02_tiny_patch14_224", {"mlp_ratio": 3}),
    "eva02, inner norm": ("eva02_base_patch14_224", {"mlp_ratio": 3}),
    "eva02, inner norms": ("eva02_base_patch16_clip_224", {"mlp_ratio": 3}),
    "rope": ("vit_small_patch16_rope_224", {}),
    "rope beside learned positions": ("vit_small_patch16_rope_ape_224", {}),
    "mixed rope": ("vit_small_patch16_rope_mixed_224", {}),
    "mixed rope beside learned positions": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "rope, registers, gap": ("vit_base_patch16_rope_reg1_gap_256", {}),
    "perception encoder, map": ("vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 4}),
    "perception encoder, lang": ("vit_pe_lang_large_patch14_448", {"mlp_ratio": 2}),
    "sapiens2: gains of attentions alone, biased keys, positions stretched in training": (
        "vit_base_patch16_sapiens2", {"num_kv_heads": HEADS, "mlp_ratio": 2},
    ),
    "rms norms, qk norm": ("vit_small_patch16_dinov3", {"norm_layer": timm.layers.RmsNorm, "qk_norm": True}),
}  # fmt: skip
NORMED = ("eva02, inner norm", "eva02, inner norms")


def of_timm(kind: str, **changed) -> torch.nn.Module:
    """timm's own, every parameter drawn: none of them may be without effect."""
    name, arguments = KINDS[kind]
    model = timm.create_model(name, **SMALL | arguments | changed).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            gain = ("norm" in key and key.endswith("weight")) or "gamma" in key
            parameter.normal_(1.0 if gain else 0.0, 0.2)
    return model


def backbone(kind: str = "dinov3", **changed) -> Backbone:
    """The same as a network of this library."""
    return from_timm(of_timm(kind, **changed)).eval()
