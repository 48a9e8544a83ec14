"""Which model a file of weights is of, where it is not of the one that it was given to."""

import math
from collections.abc import Iterator
from fnmatch import fnmatch

import torch
from torch import nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks import timm_models
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.weights.formats import HEADS
from lightning_vitc.networks.weights.renaming import Weights
from lightning_vitc.networks.weights.resampling import TABLE

KINDS: dict[str, tuple[str, ...]] = {  # a weight that only such networks have, and patterns of their names
    "tokens_to_token.project.weight": ("t2t_vit_*",),
    "layers.0.blocks.0.attn.relative_position_bias_table": ("swin_*_patch*", "swin_*"),
    "blocks.0.attn.relative_position_bias_table": ("beit*",),
    "blocks1.0.pos_embed.weight": ("uniformer_*",),
    "layer1.0.conv1.weight": ("resnet*",),
    "conv_stem.weight": ("mobilenetv2_*",),
    "blocks.0.gamma_1": ("*_dinov3*", "vit_*_rope_*"),
    "blocks.0.attn.q_proj.weight": ("eva02_*",),
    "blocks.0.attn.q_bias": ("eva02_*", "*_dinov3*"),
    "blocks.0.ls1.gamma": ("vit_*_dinov2", "deit3_*"),
    "attn_pool.latent": ("vit_*_siglip_*",),
    "norm_pre.weight": ("vit_*_clip_*",),
    "dist_token": ("deit_*distilled*",),
    "blocks.0.attn.qkv.weight": ("vit_*_patch*_224", "deit_*"),
}
WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large"}  # of Vision Transformers, and the word in their names
MOST = 16  # that are tried


def sibling(weights: Weights, patterns: tuple[str, ...] = ()) -> str | None:
    """A model whose weights, but for its classifier, have these names and shapes, at any image size.

    Args:
        weights: under the names of a network.
        patterns: of names of models, which the format of a file may say.
    """
    given = patterns or next((names for mark, names in KINDS.items() if mark in weights), ())
    of_another_size: str | None = None
    for name in _candidates(weights, given):
        model = _model_of(weights, name)
        if model is not None and _shapes(model.state_dict(), True) == _shapes(weights, True):
            return name
        of_another_size = of_another_size or (None if model is None else name)
    return of_another_size


def _candidates(weights: Weights, patterns: tuple[str, ...]) -> Iterator[str]:
    """Names that fit the patterns, the shortest first, and do not say another width or size of patches."""
    kernel = weights.get("patch_embed.proj.weight")
    patch = None if kernel is None or kernel.ndim != 4 else f"patch{kernel.shape[-1]}"
    width = None if kernel is None else WIDTHS.get(len(kernel))
    known = [
        name for pattern in patterns for name in sorted(timm_models.known_names(), key=len) if fnmatch(name, pattern)
    ]
    fitting = (name for name in dict.fromkeys(known) if not _says_otherwise(name, patch, width))
    yield from (name for _, name in zip(range(MOST), fitting, strict=False))


def _says_otherwise(name: str, patch: str | None, width: str | None) -> bool:
    parts = {*name.split("_")}
    sizes = {*WIDTHS.values()} & parts if not name.startswith("swin") else set()  # whose first stage is narrower
    patches = {part for part in parts if part.startswith("patch")}
    return bool(sizes and width not in sizes) or bool(patches and patch is not None and patch not in patches)


def _model_of(weights: Weights, name: str) -> nn.Module | None:
    """One of this name without weights, where it has those names and shapes, and as many positions beside a square."""
    try:
        with torch.device("meta"):
            model = timm_models.create_timm(name)
            ArchSpec.of(model)
    except UserError:  # not supported
        return None
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    positions = weights.get("pos_embed")
    patches = 0 if positions is None or positions.ndim != 3 else positions.shape[1] - prefix
    square = patches >= 0 and math.isqrt(patches) ** 2 == patches
    return model if square and _shapes(model.state_dict()) == _shapes(weights) else None


def _shapes(weights: Weights, sized: bool = False) -> dict[str, tuple[int, ...]]:
    """Of all but classifiers; unless `sized`, of what depends on images and windows the last dimension alone."""
    return {
        name: tuple(value.shape) if sized or not (name == "pos_embed" or name.endswith(TABLE)) else value.shape[-1:]
        for name, value in weights.items()
        if not name.startswith(HEADS) and not name.endswith(".num_batches_tracked")
    }
