"""Swin Transformers of any shape an ArchSpec can describe: timm's model with blocks of our own.

State-dict keys are timm's.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.families.swin.layers import Block
from lightning_vitc.networks.families.swin.read import read as read
from lightning_vitc.networks.families.swin.shape import grids, shifts, windows
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.compilation import Compilable
from lightning_vitc.networks.modules.described import Movable
from lightning_vitc.networks.spec import ArchSpec

DROP_PATH = 0.1  # timm's for the whole family


class Swin(Movable, Compilable, SwinTransformer):  # type: ignore[misc]
    """timm's model with blocks of our own."""

    layers: Any

    @property
    def blocks(self) -> list[Block]:
        """Of all stages."""
        return [block for layer in self.layers for block in layer.blocks]

    def move(self) -> None:
        """Tables are resampled where the window is another one; else windows keep their size."""
        spec = self.spec
        for block, (stage, branch) in zip(self.blocks, _attentions(spec), strict=True):
            if branch is not None:
                block.attn.move(grids(spec)[stage], windows(spec)[stage], shifts(spec, stage, branch))


class SwinBackbone(Backbone, Swin):  # type: ignore[misc]
    """The one that is trained."""

    def stem(self, x: Tensor) -> Tensor:
        """A grid of patches [B, H, W, D]."""
        return self.patch_embed(x)

    def enter(self, stage: int, x: Tensor) -> Tensor:
        """Four neighbors become one."""
        return self.layers[stage].downsample(x)

    def tail(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.norm(x)


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> Swin:
    """A model of the described shape, weights not yet set (see `initialize`); arguments as in `family.Network`."""
    rates, o, count = rates or {}, spec.options, len(spec.stages)
    model = (SwinBackbone if trained else Swin)(
        img_size=spec.img_size, patch_size=o.patch_size, in_chans=spec.in_chans, num_classes=spec.num_classes,
        global_pool=o.global_pool, embed_dim=spec.stages[0].width, depths=(0,) * count, num_heads=(1,) * count,
        window_size=7, drop_rate=rates.get("drop_rate", 0.0), drop_path_rate=0.0, weight_init="skip",
        norm_layer=partial(nn.LayerNorm, eps=o.norm_eps),  # type: ignore[arg-type]
    )  # fmt: skip
    drops = iter(drops_of(rates, spec.depth, DROP_PATH))
    model.spec = spec
    for number, stage in enumerate(spec.stages):
        model.layers[number].blocks = nn.Sequential(
            *(Block(spec, number, block, **next(drops)) for block in stage.blocks)
        )
    return model


def initialize(model: Swin) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    model.init_weights(mode="reset")


def _attentions(spec: ArchSpec) -> list[tuple[int, Any]]:
    """The stage and the attention of every block."""
    return [(spec.place(number)[0], block.branches[0]) for number, block in enumerate(spec.blocks)]
