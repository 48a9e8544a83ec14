"""Self-attention whose heads have value widths of their own, under timm's names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Branch


class Attention(nn.Module):
    """Multi-head self-attention [B, N, D] -> [B, N, D] with a value width for every head.

    Args:
        width: D, of the stream.
        attn: heads and widths.
        scale: on QKᵀ.
        qkv_bias, proj_bias: whether the projections have one.
        norm_eps: of a norm of queries and of keys; none by default.
        attn_drop, proj_drop: rates of dropout.
    """

    pad: Tensor | None
    valid: Tensor | None

    def __init__(
        self, width: int, attn: Branch, scale: float, *, qkv_bias: bool = True, proj_bias: bool = True,
        norm_eps: float | None = None, attn_drop: float = 0.0, proj_drop: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.num_heads, self.head_dim, self.value_dims = attn.groups, attn.query, attn.pieces
        self.scale = scale
        self.qkv = nn.Linear(width, 2 * attn.query_width + attn.width, bias=qkv_bias)
        self.q_norm = nn.Identity() if norm_eps is None else nn.LayerNorm(attn.query, eps=norm_eps)
        self.k_norm = nn.Identity() if norm_eps is None else nn.LayerNorm(attn.query, eps=norm_eps)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(attn.width, width, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        self.padded_dim = attn.padded  # padding costs less than doing without fused kernels
        pad, valid = _padding_indices(attn.pieces, self.padded_dim)
        self.register_buffer("pad", pad, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; `attn_mask` and `is_causal` as in timm."""
        heads, qk_dim = self.num_heads, self.num_heads * self.head_dim
        q, k, v = self.qkv(x).split([qk_dim, qk_dim, sum(self.value_dims)], dim=-1)
        q = self.q_norm(q.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)  # [B, H, N, head_dim]
        k = self.k_norm(k.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)
        if self.pad is not None:
            v = F.pad(v, (0, 1)).index_select(-1, self.pad)
        v = v.unflatten(-1, (heads, self.padded_dim)).transpose(1, 2)
        drop = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask, drop, is_causal, scale=self.scale)
        x = x.transpose(1, 2).flatten(2)  # [B, N, H * value_dim]
        if self.valid is not None:
            x = x.index_select(-1, self.valid)
        return self.proj_drop(self.proj(x))


def _padding_indices(dims: tuple[int, ...], width: int) -> tuple[Tensor | None, Tensor | None]:
    """Where each column of heads of `width` comes from (the last one is zero), and which of them are real."""
    total = sum(dims)
    if width * len(dims) == total:
        return None, None
    live = torch.arange(width, device="cpu") < torch.tensor(dims, device="cpu")[:, None]  # [H, width]
    pad = torch.full(live.shape, total, device="cpu")
    pad[live] = torch.arange(total, device="cpu")
    return pad.flatten(), live.flatten().nonzero().flatten()
