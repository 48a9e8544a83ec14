"""Self-attention whose heads have value widths of their own, under timm's names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.modules.norms import Norm
from lightning_vitc.networks.modules.rotation import rotated


class Attention(nn.Module):
    """Multi-head self-attention [B, N, D] -> [B, N, D] with a value width for every head.

    Args:
        width: D, of the stream.
        attn: heads and widths.
        scale: on QKᵀ.
        qkv_bias, proj_bias: whether the projections have one.
        key_bias: whether that of keys has one too.
        split: three projections in the place of a packed one.
        qk_norm: of queries and of keys; none by default.
        inner_norm: of the values, before the output projection; none by default.
        attn_drop, proj_drop: rates of dropout.
    """

    pad: Tensor | None
    valid: Tensor | None

    def __init__(
        self, width: int, attn: Branch, scale: float, *, qkv_bias: bool = True, proj_bias: bool = True,
        key_bias: bool = True, split: bool = False, qk_norm: Norm | None = None, inner_norm: Norm | None = None,
        attn_drop: float = 0.0, proj_drop: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.num_heads, self.head_dim, self.value_dims = attn.groups, attn.query, attn.pieces
        self.scale = scale
        self.qkv = self.q_proj = self.k_proj = self.v_proj = self.q_bias = self.v_bias = None
        if split:
            self.q_proj = nn.Linear(width, attn.query_width, bias=qkv_bias)
            self.k_proj = nn.Linear(width, attn.query_width, bias=qkv_bias and key_bias)
            self.v_proj = nn.Linear(width, attn.width, bias=qkv_bias)
        else:
            self.qkv = nn.Linear(width, 2 * attn.query_width + attn.width, bias=qkv_bias and key_bias)
        if qkv_bias and not key_bias and not split:
            self.q_bias = nn.Parameter(torch.zeros(attn.query_width))
            self.v_bias = nn.Parameter(torch.zeros(attn.width))
        self.q_norm = qk_norm(attn.query) if qk_norm else nn.Identity()
        self.k_norm = qk_norm(attn.query) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = inner_norm(attn.width) if inner_norm else nn.Identity()
        self.proj = nn.Linear(attn.width, width, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        self.padded_dim = attn.padded  # padding costs less than doing without fused kernels
        pad, valid = _padding_indices(attn.pieces, self.padded_dim)
        self.register_buffer("pad", pad, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, rope: Tensor | None = None,
        rotate_half: bool = False,
    ) -> Tensor:  # fmt: skip
        """Attend; `attn_mask` and `is_causal` as in timm.

        Args:
            x: tokens.
            attn_mask, is_causal: as in timm.
            rope: sines and cosines of the last tokens [..., n, 2 head_dim], by which queries and keys are rotated.
            rotate_half: which dimensions are a pair, see `rotated`.
        """
        heads = self.num_heads
        q, k, v = self._projected(x)
        q = self.q_norm(q.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)  # [B, H, N, head_dim]
        k = self.k_norm(k.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)
        if rope is not None:
            q, k = (rotated(one, rope, rotate_half).to(v.dtype) for one in (q, k))
        if self.pad is not None:
            v = F.pad(v, (0, 1)).index_select(-1, self.pad)
        v = v.unflatten(-1, (heads, self.padded_dim)).transpose(1, 2)
        drop = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask, drop, is_causal, scale=self.scale)
        x = self._side_by_side(x, attn_mask is not None)
        if self.valid is not None:
            x = x.index_select(-1, self.valid)
        return self.proj_drop(self.proj(self.norm(x)))

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of all heads."""
        if self.qkv is None:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)  # type: ignore[misc]
        rows, width = self.qkv(x), self.num_heads * self.head_dim
        if self.q_bias is not None:
            rows = rows + torch.cat([F.pad(self.q_bias, (0, width)), self.v_bias])  # type: ignore[list-item]
        return rows.split([width, width, sum(self.value_dims)], dim=-1)

    @staticmethod
    def _side_by_side(x: Tensor, masked: bool) -> Tensor:
        """Of all heads, [B, H, N, value_dim] -> [B, N, H * value_dim]."""
        if masked and torch.compiler.is_compiling():  # a graph may take it for a view, which not every kernel's is
            return torch.cat(x.unbind(1), dim=-1)
        return x.transpose(1, 2).flatten(2)


def _padding_indices(dims: tuple[int, ...], width: int) -> tuple[Tensor | None, Tensor | None]:
    """Where each column of heads of `width` comes from (the last one is zero), and which of them are real."""
    total = sum(dims)
    if width * len(dims) == total:
        return None, None
    live = torch.arange(width, device="cpu") < torch.tensor(dims, device="cpu")[:, None]  # [H, width]
    pad = torch.full(live.shape, total, device="cpu")
    pad[live] = torch.arange(total, device="cpu")
    return pad.flatten(), live.flatten().nonzero().flatten()
