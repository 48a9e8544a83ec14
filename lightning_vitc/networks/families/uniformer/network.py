"""UniFormers of any shape an ArchSpec can describe. State-dict keys are those of the authors' files."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.families.uniformer import light
from lightning_vitc.networks.families.uniformer.layers import PATCH_EPS, BatchNorm, Block, entrance
from lightning_vitc.networks.families.uniformer.shape import is_convolutional
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.classifying import Classifying, draw_linear
from lightning_vitc.networks.modules.compilation import method_of
from lightning_vitc.networks.modules.two_logits import TwoLogits
from lightning_vitc.networks.spec import ArchSpec


class UniFormer(Classifying):
    """Images [B, C, H, W] -> logits [B, classes], by timm's conventions.

    Attributes:
        spec: the architecture.
    """

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__(spec, rates)
        drops = iter(drops_of(rates, spec.depth))
        for number in range(len(spec.stages)):
            setattr(self, f"patch_embed{number + 1}", entrance(spec, number))
            setattr(self, f"blocks{number + 1}", nn.Sequential(*self._made(number, drops)))
        self.norm = BatchNorm(spec.feature_width)
        self.head = self.classifier_of(spec.feature_width)

    def _made(self, stage: int, drops: Iterator[dict[str, float]]) -> Iterator[nn.Module]:
        """The blocks of a stage."""
        for block in self.spec.stages[stage].blocks:
            yield Block(self.spec, stage, block, **next(drops))

    @property
    def first_conv(self) -> str:
        """The name of the layer that sees images."""
        return "patch_embed1.proj.0" if self.spec.options.stem else "patch_embed1.proj"

    @property
    def blocks(self) -> list[Block]:
        """Of all stages."""
        return [block for number in range(len(self.spec.stages)) for block in getattr(self, f"blocks{number + 1}")]

    def enter(self, stage: int, x: Tensor) -> Tensor:
        """A grid [B, H, W, D] into the next stage, where it is half as high and wide."""
        return getattr(self, f"patch_embed{stage + 1}")(x)

    def features(self, x: Tensor) -> Tensor:
        """The last grid [B, H, W, D] after the final norm."""
        x = x.permute(0, 2, 3, 1).contiguous()
        for number in range(len(self.spec.stages)):
            x = getattr(self, f"blocks{number + 1}")(self.enter(number, x))
        return self.norm(x)

    def pooled(self, x: Tensor) -> Tensor:
        """The mean over positions."""
        return x.mean((1, 2))

    def draw(self, layer: nn.Module) -> None:
        """As the authors do."""
        if isinstance(layer, nn.Conv2d | BatchNorm | nn.LayerNorm):
            layer.reset_parameters()
        draw_linear(layer)


class LightUniFormer(UniFormer):
    """With a class token and tokens that are dropped; in training it gives `TwoLogits`, else those of the grid."""

    classifiers = ("head", "head_cls")

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__(spec, rates)
        *_, before, width = spec.widths
        self.cls_token, self.cls_upsample = nn.Parameter(torch.zeros(1, 1, before)), nn.Linear(before, width)
        self.norm_cls, self.head_cls = nn.LayerNorm(width, eps=PATCH_EPS), self.classifier_of(width)

    def _made(self, stage: int, drops: Iterator[dict[str, float]]) -> Iterator[nn.Module]:
        if is_convolutional(stage):
            yield from super()._made(stage, drops)
            return
        blocks = self.spec.stages[stage].blocks
        for at, block in enumerate(blocks):
            first, last = (stage, at) == (2, 0), stage == 2 and at == len(blocks) - 1
            yield light.Block(self.spec, stage, block, first, last, **next(drops))

    def features(self, x: Tensor) -> Tensor:
        """The last grid [B, H, W, D] after the final norm."""
        return self._both(x)[0]

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last grid [B, H, W, D] after the final norm, and the class token [B, 1, D]."""
        x = x.permute(0, 2, 3, 1).contiguous()
        for number in range(2):
            x = getattr(self, f"blocks{number + 1}")(self.enter(number, x))
        token, importance = self.cls_token.expand(len(x), -1, -1), x.new_zeros(())
        for number in (2, 3):
            x, token = self.enter(number, x), self.cls_upsample(token) if number == 3 else token
            for block in getattr(self, f"blocks{number + 1}"):
                x, token, importance = block(x, token, importance)
        return self.norm(x), token

    def forward(self, x: Tensor) -> Tensor | TwoLogits:  # type: ignore[override]
        """Logits."""
        grid, token = method_of(self, LightUniFormer._both, self.compiled == "whole")(x)
        logits = self.forward_head(grid)
        return TwoLogits(logits, self.head_cls(self.norm_cls(token)[:, 0])) if self.training else logits

    def no_weight_decay(self) -> set[str]:
        """timm's convention."""
        return {"cls_token"}


class UniFormerBackbone(Backbone, UniFormer):  # type: ignore[misc]
    """The one that is trained."""

    enter = UniFormer.enter

    def stem(self, x: Tensor) -> Tensor:
        """Images with their channels last."""
        return x.permute(0, 2, 3, 1).contiguous()

    def tail(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.norm(x)


class LightBackbone(Backbone, LightUniFormer):  # type: ignore[misc]
    """The one that is trained, whole or as a sub-network: nothing else may stand in the place of its blocks."""

    enter = UniFormer.enter


def read(model: Any) -> ArchSpec | None:
    """The architecture, which a model of this family always has with it."""
    return model.spec if isinstance(model, UniFormer) else None


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> UniFormer:
    """A model of the described shape, weights not yet set; `rates` are timm's."""
    kinds = (LightUniFormer, LightBackbone) if spec.options.light else (UniFormer, UniFormerBackbone)
    return kinds[trained](spec, rates or {})


def initialize(model: UniFormer) -> None:
    """Draw fresh weights in place, as the authors do."""
    for module in model.modules():
        model.draw(module)
