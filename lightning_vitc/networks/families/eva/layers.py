"""The blocks of timm's Eva class, under its names."""

from typing import Any

import torch
from timm.layers import DropPath
from timm.layers.pos_embed_sincos import get_mixed_freqs, get_mixed_grid, init_random_2d_freqs
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.families.eva.shape import MIXED
from lightning_vitc.networks.families.plain.layers import attention_arguments, attention_of
from lightning_vitc.networks.families.plain.shape import grid
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.block import Block as AnyBlock
from lightning_vitc.networks.modules.block import Gates
from lightning_vitc.networks.modules.mlps import mlp_of
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec

GAIN = 1e-5  # at first


class MixedAttention(Attention):
    """Self-attention that learns by which angles its positions turn queries and keys, head by head.

    Attributes:
        freqs: [2, H, d / 2], of rows and of columns, for every pair of dimensions.
    """

    t_x: Tensor
    t_y: Tensor

    def __init__(self, spec: ArchSpec, attn: Branch, attn_drop: float, proj_drop: float):
        super().__init__(**attention_arguments(spec, attn, attn_drop, proj_drop))
        self.temperature, self.indexing = spec.options.rope_temperature, spec.options.rope_indexing
        self.freqs = nn.Parameter(torch.empty(2, attn.groups, attn.query // 2))
        rows, columns = self._positions(grid(spec))
        self.register_buffer("t_x", rows, persistent=False)
        self.register_buffer("t_y", columns, persistent=False)
        self.reset_parameters()

    def move(self, grid: tuple[int, int]) -> None:
        """Attend in another grid from now on."""
        self.t_x, self.t_y = (places.to(self.t_x.device) for places in self._positions(grid))

    def _positions(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return get_mixed_grid(list(grid), self.indexing, torch.device("cpu"))

    def reset_parameters(self) -> None:
        """New frequencies, as timm draws them."""
        _, heads, pairs = self.freqs.shape
        if pairs % 2 == 0:
            drawn = init_random_2d_freqs(2 * pairs, 1, heads, self.temperature, device=self.freqs.device)[:, 0]
            with torch.no_grad():
                self.freqs.copy_(drawn)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, rope: Tensor | None = None,
        rotate_half: bool = False,
    ) -> Tensor:  # fmt: skip
        """Attend."""
        rope = get_mixed_freqs(self.freqs, self.t_x, self.t_y)
        return super().forward(x, attn_mask, is_causal, rope, rotate_half)


class Block(AnyBlock):
    """Attention with rotary positions and MLP over the tokens [B, N, D]; their gains are `gamma_1` and `gamma_2`."""

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(self, spec: ArchSpec, block: BlockSpec, proj_drop: float = 0.0, attn_drop: float = 0.0,
                 drop_path: float = 0.0):  # fmt: skip
        super().__init__(block, spec.embed_dim)
        attn, mlp = block.branches
        dim, o = spec.embed_dim, spec.options
        norm, self.rotate_half = norm_of(o.norm, o.norm_eps), getattr(o, "rope_half", False)
        self.gamma_1, self.gamma_2 = (
            nn.Parameter(torch.full((dim,), GAIN)) if o.layer_scale and there else None
            for there in (attn is not None, mlp is not None and o.mlp_gains)
        )
        drop: Any = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        if attn is not None:
            self.norm1, self.drop_path1 = norm(dim), drop
            self.attn = self._attention(spec, attn, attn_drop, proj_drop)
        if mlp is not None:
            self.norm2, self.drop_path2 = norm(dim), drop
            self.mlp = mlp_of(
                dim, mlp.width, o.act, bias=o.proj_bias, drop=proj_drop, kind=mlp.kind,
                norm=norm if o.mlp_norm else None, split=o.split_glu,
            )  # fmt: skip

    def forward(  # type: ignore[override]
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False,
        gates: Gates | None = None,
    ) -> Tensor:  # fmt: skip
        """As of any block; `rope`, `attn_mask` and `is_causal` as in timm."""
        return super().forward(
            x, gates, attn_mask=attn_mask, is_causal=is_causal, rope=rope, rotate_half=self.rotate_half
        )

    @staticmethod
    def _attention(spec: ArchSpec, attn: Branch, attn_drop: float, proj_drop: float) -> Attention:
        kind = MixedAttention if getattr(spec.options, "rope", "") == MIXED else attention_of
        return kind(spec, attn, attn_drop, proj_drop)

    def _attend(self, normed: Tensor, **context: Any) -> Tensor:
        added = self.attn(normed, **context)
        return added if self.gamma_1 is None else self.gamma_1 * added

    def _feed(self, normed: Tensor) -> Tensor:
        added = self.mlp(normed)
        return added if self.gamma_2 is None else self.gamma_2 * added

    def gains(self, number: int) -> Tensor | None:
        """Of what a branch adds, [D]."""
        return self.gamma_2 if number else self.gamma_1
