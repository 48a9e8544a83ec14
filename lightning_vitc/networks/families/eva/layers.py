"""The blocks of timm's Eva class, under its names."""

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.families.plain.layers import attention_of
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.block import Block as AnyBlock
from lightning_vitc.networks.modules.block import Gates
from lightning_vitc.networks.modules.mlps import mlp_of
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec

GAIN = 1e-5  # at first


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
            nn.Parameter(torch.full((dim,), GAIN)) if o.layer_scale and branch is not None else None for branch in block
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
        return attention_of(spec, attn, attn_drop, proj_drop)

    def _attend(self, normed: Tensor, **context: Any) -> Tensor:
        added = self.attn(normed, **context)
        return added if self.gamma_1 is None else self.gamma_1 * added

    def _feed(self, normed: Tensor) -> Tensor:
        added = self.mlp(normed)
        return added if self.gamma_2 is None else self.gamma_2 * added

    def gains(self, number: int) -> Tensor | None:
        """Of what a branch adds, [D]."""
        return self.gamma_2 if number else self.gamma_1
