"""Plain Vision Transformers of any shape an ArchSpec can describe: timm's model with blocks of our own.

State-dict keys are timm's.
"""

from collections.abc import Mapping
from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.families.plain.layers import Block
from lightning_vitc.networks.families.plain.read import read as read
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.compilation import Compilable
from lightning_vitc.networks.modules.described import Described
from lightning_vitc.networks.modules.latent_pooling import pool_of
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec


class PlainViT(Described, Compilable, VisionTransformer):
    """timm's model with blocks of our own."""


class PlainDistilledViT(Described, Compilable, VisionTransformerDistilled):
    """The same with a distillation token."""


class PlainBackbone(Backbone, PlainViT):  # type: ignore[misc]
    """The one that is trained."""

    def stem(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D]."""
        return self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))

    def tail(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.norm(x)


class PlainDistilledBackbone(PlainBackbone, VisionTransformerDistilled):  # type: ignore[misc]
    """The same with a distillation token and its head (DeiT)."""


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> VisionTransformer:
    """A model of the described shape, weights not yet set (see `initialize`).

    Args:
        spec: the architecture.
        rates: timm's `drop_rate`, `proj_drop_rate`, `attn_drop_rate`, `drop_path_rate`.
        trained: a `Backbone`.
    """
    rates = rates or {}
    kinds = (PlainBackbone, PlainDistilledBackbone) if trained else (PlainViT, PlainDistilledViT)
    model = kinds[spec.distilled](**_timm_arguments(spec), drop_rate=rates.get("drop_rate", 0.0))
    model.spec = spec
    model.blocks = nn.Sequential(
        *(Block(spec, block, **drops) for block, drops in zip(spec.blocks, drops_of(rates, spec.depth), strict=True))
    )
    add_pool(model, spec)
    return model


def add_pool(model: Any, spec: ArchSpec) -> None:
    """The attention that pools, where the network has one."""
    o = spec.options
    if o.pool_heads:
        model.global_pool = "map"
        model.attn_pool = pool_of(spec.embed_dim, o.pool_heads, o.pool_hidden, o.pool_act, norm_of(o.norm, o.norm_eps))


def initialize(model: VisionTransformer) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    model.weight_init_mode = ""  # `build` told timm to skip it, which timm remembers
    model.init_weights()


def _timm_arguments(spec: ArchSpec) -> dict[str, Any]:
    o = spec.options
    return dict(
        img_size=spec.img_size, patch_size=o.patch_size, in_chans=spec.in_chans, num_classes=spec.num_classes,
        global_pool="avg" if o.pool_heads else o.global_pool, embed_dim=spec.embed_dim, depth=0,
        class_token=o.class_token, pos_embed="learn" if o.pos_embed else "none", no_embed_class=o.no_embed_class,
        reg_tokens=o.reg_tokens, pre_norm=o.pre_norm, final_norm=o.final_norm, fc_norm=o.fc_norm,
        pool_include_prefix=o.pool_include_prefix, weight_init="skip",
        norm_layer=norm_of(o.norm, o.norm_eps), embed_norm_layer=norm_of(o.norm, o.norm_eps) if o.embed_norm else None,
    )  # fmt: skip
