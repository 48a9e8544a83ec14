"""Rotary positions: pairs of dimensions of queries and keys, turned by angles of the position (RoPE)."""

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor


def rotated(x: Tensor, rope: Tensor, half: bool) -> Tensor:
    """Queries or keys [B, H, N, d], of which the last n tokens are rotated; those before, such as a class token, not.

    Args:
        x: of all heads.
        rope: sines, then cosines, [..., n, 2 d].
        half: dimensions i and i + d/2 are a pair; else 2 i and 2 i + 1.
    """
    prefix = x.shape[-2] - rope.shape[-2]
    turned = apply_rot_embed_cat(x[..., prefix:, :], rope, half=half)
    return torch.cat([x[..., :prefix, :].to(turned.dtype), turned], dim=-2) if prefix else turned
