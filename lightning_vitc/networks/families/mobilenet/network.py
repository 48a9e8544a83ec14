"""MobileNetV2s of any shape an ArchSpec can describe. State-dict keys are timm's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.blocks import MLP
from lightning_vitc.networks.families.mobilenet.read import read as read
from lightning_vitc.networks.families.mobilenet.shape import keeps_stream, widths_of
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.conv_block import ConvBlock, convolution, norm_of
from lightning_vitc.networks.modules.conv_net import ConvNet
from lightning_vitc.networks.spec import ArchSpec


class Stages(nn.Module):
    """Blocks one after another; the state dict has them by stages."""

    def __init__(self, blocks: Sequence[Sequence[ConvBlock]]):
        super().__init__()
        for number, stage in enumerate(blocks):
            self.add_module(str(number), nn.Sequential(*stage))

    def __iter__(self) -> Iterator[ConvBlock]:
        return (block for stage in self.children() for block in stage.children())  # type: ignore[misc]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, number: int) -> ConvBlock:
        return list(self)[number]


class _Block(ConvBlock):
    """A stream that changes is what the branch gives."""

    def changed(self, x: Tensor) -> Tensor:
        """The branch alone."""
        return self.branch(x)


class Separable(_Block):
    """A depthwise convolution over the stream, and a pointwise one."""

    def __init__(self, spec: ArchSpec, number: int, stride: int, drop_path: float = 0.0):
        (before, behind), eps = widths_of(spec, number), spec.options.norm_eps
        super().__init__(spec.blocks[number], behind, keeps_stream(spec, number), drop_path)
        self.conv_dw, self.bn1 = convolution(before, before, 3, stride, groups=before), norm_of(before, eps)
        self.conv_pw, self.bn2 = convolution(before, behind, 1), norm_of(behind, eps)

    def branch(self, x: Tensor) -> Tensor:
        """What is added, or becomes the stream."""
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))


class Inverted(_Block):
    """Pointwise to the hidden channels, depthwise over them, pointwise back."""

    def __init__(self, spec: ArchSpec, number: int, stride: int, drop_path: float = 0.0):
        (before, behind), eps, block = widths_of(spec, number), spec.options.norm_eps, spec.blocks[number]
        super().__init__(block, behind, keeps_stream(spec, number), drop_path)
        if (branch := block.branches[MLP]) is not None:
            hidden = branch.width
            self.conv_pw, self.bn1 = convolution(before, hidden, 1), norm_of(hidden, eps)
            self.conv_dw, self.bn2 = convolution(hidden, hidden, 3, stride, groups=hidden), norm_of(hidden, eps)
            self.conv_pwl, self.bn3 = convolution(hidden, behind, 1), norm_of(behind, eps)

    def branch(self, x: Tensor) -> Tensor:
        """What is added, or becomes the stream."""
        x = F.relu6(self.bn2(self.conv_dw(F.relu6(self.bn1(self.conv_pw(x))))))
        return self.bn3(self.conv_pwl(x))


class MobileNet(ConvNet):
    """Images [B, C, H, W] -> logits [B, classes]."""

    classifiers = ("classifier",)

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__(spec, rates)
        o = spec.options
        self.conv_stem, self.bn1 = convolution(spec.in_chans, o.stem, 3, 2), norm_of(o.stem, o.norm_eps)
        self.blocks = _stages(spec, rates)
        self.conv_head, self.bn2 = convolution(spec.feature_width, o.head, 1), norm_of(o.head, o.norm_eps)
        self.classifier = self.classifier_of(o.head)

    def embed(self, x: Tensor) -> Tensor:
        """Half of the grid, down and across."""
        return F.relu6(self.bn1(self.conv_stem(x)))

    def features_of(self, x: Tensor) -> Tensor:
        """The last convolution."""
        return F.relu6(self.bn2(self.conv_head(x)))


class MobileNetBackbone(Backbone, MobileNet):  # type: ignore[misc]
    """The one that is trained."""

    def stem(self, x: Tensor) -> Tensor:
        """The stream [B, C, H, W]."""
        return self.embed(x)

    def tail(self, x: Tensor) -> Tensor:
        """The last convolution."""
        return self.features_of(x)


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> MobileNet:
    """A model of the described shape, weights not yet set (see `initialize`); arguments as in `family.Network`."""
    return (MobileNetBackbone if trained else MobileNet)(spec, rates or {})


def initialize(model: Any) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    efficientnet_init_weights(model)


def _stages(spec: ArchSpec, rates: Mapping[str, float]) -> Stages:
    drops = drops_of(rates, spec.depth + 1)  # timm's rates stop short of the one that is named
    stages: list[list[ConvBlock]] = [[] for _ in spec.stages]
    for number, block in enumerate(spec.blocks):
        stage, at = spec.place(number)
        kind = Separable if (branch := block.branches[MLP]) and branch.kind == "separable" else Inverted
        stride = 1 if at else spec.options.strides[stage]
        stages[stage].append(kind(spec, number, stride, drops[number]["drop_path"]))
    return Stages(stages)
