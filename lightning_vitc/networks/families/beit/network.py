"""BEiTs of any shape an ArchSpec can describe: timm's model with blocks of our own.

State-dict keys are timm's.
"""

from collections.abc import Mapping

import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.families.beit.layers import BiasedAttention, Block
from lightning_vitc.networks.families.beit.read import read as read
from lightning_vitc.networks.families.eva.network import scale_by_depth
from lightning_vitc.networks.families.plain.shape import grid
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.compilation import Compilable
from lightning_vitc.networks.modules.described import Movable
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec


class BeitViT(Movable, Compilable, Beit):  # type: ignore[misc]
    """timm's model with blocks of our own."""

    def move(self) -> None:
        """Tables are resampled."""
        for block in self.blocks:
            if isinstance(block.attn, BiasedAttention):
                block.attn.move(grid(self.spec))

    def fix_init_weight(self) -> None:
        """timm's, for the branches there are."""
        scale_by_depth(self.blocks)


class BeitBackbone(Backbone, BeitViT):  # type: ignore[misc]
    """The one that is trained."""

    def stem(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D]."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.pos_drop(x if self.pos_embed is None else x + self.pos_embed)

    def tail(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.norm(x)


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> BeitViT:
    """A model of the described shape, weights not yet set (see `initialize`); as of plain ones."""
    rates, o = rates or {}, spec.options
    model = (BeitBackbone if trained else BeitViT)(
        img_size=spec.img_size, patch_size=o.patch_size, in_chans=spec.in_chans, num_classes=spec.num_classes,
        global_pool=o.global_pool, embed_dim=spec.embed_dim, depth=0, num_heads=1,
        norm_layer=norm_of(o.norm, o.norm_eps),  # type: ignore[arg-type]
        use_abs_pos_emb=o.pos_embed, use_fc_norm=o.fc_norm,
        drop_rate=rates.get("drop_rate", 0.0),
    )  # fmt: skip
    model.spec = spec
    model.blocks = nn.ModuleList(
        Block(spec, block, **drops) for block, drops in zip(spec.blocks, drops_of(rates, spec.depth), strict=True)
    )
    return model


def initialize(model: BeitViT) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    model.init_weights()
