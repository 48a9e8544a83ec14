"""Rotary positions: pairs of dimensions of queries and keys, turned by angles of the position (RoPE)."""

import torch
from torch import Tensor


def rotated(x: Tensor, rope: Tensor, half: bool) -> Tensor:
    """Queries or keys [B, H, N, d], of which the last n tokens are rotated; those before, such as a class token, not.

    Args:
        x: of all heads.
        rope: sines, then cosines, [..., n, 2 d].
        half: dimensions i and i + d/2 are a pair; else 2 i and 2 i + 1.
    """
    prefix, width = x.shape[-2] - rope.shape[-2], x.shape[-1]
    first, last = x[..., :prefix, :], x[..., prefix:, :]
    sines, cosines = rope.split([width, width], -1)
    turned = last * cosines + (_quarter_of_halves(last) if half else _quarter_of_neighbors(last)) * sines
    return torch.cat([first.to(turned.dtype), turned], dim=-2) if prefix else turned


def _quarter_of_halves(x: Tensor) -> Tensor:
    """(x, y) -> (-y, x) for every pair."""
    width = x.shape[-1] // 2
    return torch.cat([-x[..., width:], x[..., :width]], dim=-1)


def _quarter_of_neighbors(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
