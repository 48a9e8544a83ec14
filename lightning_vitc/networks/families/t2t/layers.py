"""What makes the tokens of a T2T-ViT, and its blocks, under the names of the authors' files."""

import math

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.families.t2t.shape import FIRST, LATER
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.block import Block as AnyBlock
from lightning_vitc.networks.modules.block import frame_of, mlp_of
from lightning_vitc.networks.spec import ArchSpec

DROPOUT = 0.1  # in performers, whatever the rates of the network are
EPSILON = 1e-8  # of a performer's denominator


class Performer(nn.Module):
    """Attention by positive random features (Choromanski et al., ICLR 2021), [B, N, D] -> [B, N, E], then an MLP.

    The first sum starts from the values, since the width changes.

    Args:
        width: D.
        token: E.
        features: of the softmax's kernel.
        eps: of the norms.
    """

    def __init__(self, width: int, token: int, features: int, eps: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(token, eps=eps)
        self.kqv = nn.Linear(width, 3 * token)
        self.w = nn.Parameter(torch.empty(features, token), requires_grad=False)
        self.dp = nn.Dropout(DROPOUT)
        self.proj = nn.Linear(token, token)
        self.mlp = nn.Sequential(nn.Linear(token, token), nn.GELU(), nn.Linear(token, token), nn.Dropout(DROPOUT))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens."""
        k, q, v = self.kqv(self.norm1(x)).split([self.w.shape[1]] * 3, dim=-1)
        x = v + self.dp(self.proj(self._attended(q, k, v).to(v.dtype)))
        return x + self.mlp(self.norm2(x))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """In single precision: features are as large as e^16."""
        queries, keys = self._features(q), self._features(k)  # [B, N, M]
        denominator = queries @ keys.sum(1)[..., None]  # [B, N, 1]
        values = queries @ (keys.transpose(1, 2) @ v.float())
        return values / EPSILON / (denominator / EPSILON + 1)  # ONNX's exporter takes adding 1e-8 for adding nothing

    def _features(self, x: Tensor) -> Tensor:
        x, w = x.float(), self.w.float()
        return torch.exp(x @ w.transpose(0, 1) + (x * x).sum(-1, keepdim=True) * -0.5) / math.sqrt(len(w))

    def draw(self) -> None:
        """New random features: rows that are orthogonal, as long as normal ones are."""
        nn.init.orthogonal_(self.w, math.sqrt(len(self.w)))


class TokenAttention(nn.Module):
    """Attention of one head, [B, N, D] -> [B, N, E], whose sum starts from the values; the authors scale it by D."""

    def __init__(self, width: int, token: int):
        super().__init__()
        self.scale = width**-0.5
        self.qkv = nn.Linear(width, 3 * token, bias=False)
        self.proj = nn.Linear(token, token)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = self.qkv(x).split([self.proj.in_features] * 3, dim=-1)
        queries, keys, values = q[:, None], k[:, None], v[:, None]  # [B, 1, N, E], which fused kernels ask for
        return v + self.proj(F.scaled_dot_product_attention(queries, keys, values, scale=self.scale).squeeze(1))


class TokenTransformer(nn.Module):
    """A token layer with softmax, [B, N, D] -> [B, N, E]."""

    def __init__(self, width: int, token: int, eps: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(token, eps=eps)
        self.attn = TokenAttention(width, token)
        self.mlp = Mlp(token, token)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens."""
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    """Images [B, C, H, W] -> tokens [B, N, D], N a 16 x 16th of the pixels; never in half precision of autocast."""

    def __init__(self, spec: ArchSpec):
        super().__init__()
        token = spec.options.token_width
        self.attention1 = _token_layer(spec, FIRST * spec.in_chans)
        self.attention2 = _token_layer(spec, LATER * token)
        self.project = nn.Linear(LATER * token, spec.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Make the tokens."""
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return self._tokens(x)
        with torch.autocast(kind, enabled=False):
            return self._tokens(x.to(self.project.weight.dtype))

    def _tokens(self, x: Tensor) -> Tensor:
        x = self.attention1(F.unfold(x, 7, stride=4, padding=2).transpose(1, 2))
        x = self.attention2(_side_by_side(x))
        return self.project(_side_by_side(x))


def _side_by_side(x: Tensor) -> Tensor:
    """The tokens of a square [B, N, E], 3 x 3 of them as one [B, N / 4, 9 E]; those of a channel are neighbors."""
    side = math.isqrt(x.shape[1])
    return F.unfold(x.transpose(1, 2).unflatten(2, (side, side)), 3, stride=2, padding=1).transpose(1, 2)


def _token_layer(spec: ArchSpec, width: int) -> nn.Module:
    o = spec.options
    if o.token_layers == "softmax":
        return TokenTransformer(width, o.token_width, o.norm_eps)
    return Performer(width, o.token_width, o.features, o.norm_eps)


class Block(AnyBlock):
    """Attention and MLP over the tokens [B, N, D]."""

    def __init__(self, spec: ArchSpec, block: BlockSpec, drop: float, attn_drop: float, drop_path: float):
        super().__init__(block, spec.embed_dim)
        (attn, mlp), dim, o = block.branches, spec.embed_dim, spec.options
        if attn is not None:
            self.norm1, self.ls1, self.drop_path1 = frame_of(dim, o.norm_eps, False, drop_path)
            self.attn = Attention(dim, attn, o.scale, qkv_bias=o.qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        if mlp is not None:
            self.norm2, self.ls2, self.drop_path2 = frame_of(dim, o.norm_eps, False, drop_path)
            self.mlp = mlp_of(dim, mlp.width, o.act, drop=drop)


def sinusoid(count: int, width: int) -> Tensor:
    """[1, count, width]: sines at even places and cosines at odd ones, of wavelengths up to 10000 · 2π."""
    places = torch.arange(width, dtype=torch.float64)
    rates = 10000 ** -(2 * (places // 2) / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(places % 2 == 0, angles.sin(), angles.cos()).float()[None]
