"""The blocks of a plain Vision Transformer, under timm's names."""

from typing import Any

from torch import Tensor

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.block import Block as AnyBlock
from lightning_vitc.networks.modules.block import Gates, frame_of
from lightning_vitc.networks.modules.mlps import mlp_of
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec


class Block(AnyBlock):
    """Attention and MLP over the tokens [B, N, D]."""

    def __init__(self, spec: ArchSpec, block: BlockSpec, proj_drop: float = 0.0, attn_drop: float = 0.0,
                 drop_path: float = 0.0):  # fmt: skip
        super().__init__(block, spec.embed_dim)
        attn, mlp = block.branches
        dim, o = spec.embed_dim, spec.options
        norm = norm_of(o.norm, o.norm_eps)
        if attn is not None:
            self.norm1, self.ls1, self.drop_path1 = frame_of(dim, o.norm_eps, o.layer_scale, drop_path, o.norm)
            self.attn = attention_of(spec, attn, attn_drop, proj_drop)
        if mlp is not None:
            self.norm2, self.ls2, self.drop_path2 = frame_of(dim, o.norm_eps, o.layer_scale, drop_path, o.norm)
            self.mlp = mlp_of(
                dim, mlp.width, o.act, bias=o.proj_bias, drop=proj_drop, kind=mlp.kind,
                norm=norm if o.mlp_norm else None, split=o.split_glu,
            )  # fmt: skip

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, gates: Gates | None = None
    ) -> Tensor:
        """As of any block; `attn_mask` and `is_causal` as in timm."""
        return super().forward(x, gates, attn_mask=attn_mask, is_causal=is_causal)


def attention_of(spec: ArchSpec, attn: Branch, attn_drop: float, proj_drop: float) -> Attention:
    """As the options of its family say."""
    return Attention(**attention_arguments(spec, attn, attn_drop, proj_drop))


def attention_arguments(spec: ArchSpec, attn: Branch, attn_drop: float, proj_drop: float) -> dict[str, Any]:
    """Of `Attention`."""
    o = spec.options
    norm = norm_of(o.norm, o.norm_eps)
    return dict(
        width=spec.embed_dim, attn=attn, scale=o.scale, qkv_bias=o.qkv_bias, proj_bias=o.proj_bias,
        key_bias=o.key_bias, split=o.split_qkv, qk_norm=norm if o.qk_norm else None,
        inner_norm=norm if o.attn_norm else None, attn_drop=attn_drop, proj_drop=proj_drop,
    )  # fmt: skip
