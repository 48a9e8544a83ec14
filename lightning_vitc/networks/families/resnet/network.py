"""ResNets of any shape an ArchSpec can describe. State-dict keys are timm's, which are torchvision's."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.blocks import MLP
from lightning_vitc.networks.families.resnet.read import read as read
from lightning_vitc.networks.families.resnet.shape import changes_stream, keeps_stream, widths_of
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.conv_block import ConvBlock, adds_nothing, convolution, norm_of
from lightning_vitc.networks.modules.conv_net import ConvNet
from lightning_vitc.networks.spec import ArchSpec


class Halving(nn.Conv2d):
    """A convolution of one pixel that takes every other row and column, without bias.

    A graph takes them first. It has channels last, where oneDNN's backward pass of such a convolution with a stride
    writes beyond its memory if there are fewer channels than a vector register holds numbers (torch 2.15, on CPUs).
    """

    def __init__(self, before: int, behind: int):
        super().__init__(before, behind, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H / 2, W / 2], rounded up."""
        return F.conv2d(x[..., ::2, ::2], self.weight) if torch.compiler.is_compiling() else super().forward(x)


class BasicBlock(ConvBlock):
    """Two convolutions, ReLU behind the sum; where the stream changes, one beside them takes it along."""

    def __init__(self, spec: ArchSpec, number: int, drop_path: float = 0.0):
        before, behind = widths_of(spec, number)
        block, eps, stride = spec.blocks[number], spec.options.norm_eps, 1 + changes_stream(spec, number)
        super().__init__(block, behind, keeps_stream(spec, number), drop_path)
        if (branch := block.branches[MLP]) is not None:
            self.conv1, self.bn1 = convolution(before, branch.width, 3, stride), norm_of(branch.width, eps)
            self.conv2, self.bn2 = convolution(branch.width, behind, 3), norm_of(behind, eps)
        if stride > 1:
            self.downsample = nn.Sequential(Halving(before, behind), norm_of(behind, eps))

    def branch(self, x: Tensor) -> Tensor:
        """What is added."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def changed(self, x: Tensor) -> Tensor:
        """Both."""
        shortcut = self.downsample(x)
        return shortcut + self._dropping(x) if self.has_branch else shortcut

    def finished(self, x: Tensor) -> Tensor:
        """No negative numbers in the stream."""
        return F.relu(x)


class ResNet(ConvNet):
    """Images [B, C, H, W] -> logits [B, classes]."""

    classifiers = ("fc",)

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__(spec, rates)
        first = spec.stages[0].width
        self.conv1 = convolution(spec.in_chans, first, 7, 2)
        self.bn1 = norm_of(first, spec.options.norm_eps)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks = [BasicBlock(spec, n, drops["drop_path"]) for n, drops in enumerate(drops_of(rates, spec.depth))]
        for stage, depth in enumerate(spec.depths, 1):
            self.add_module(f"layer{stage}", nn.Sequential(*blocks[:depth]))
            blocks = blocks[depth:]
        self.fc = self.classifier_of(spec.feature_width)

    @property
    def blocks(self) -> list[ConvBlock]:
        """Of all stages."""
        layers = (self.get_submodule(f"layer{stage}") for stage in range(1, len(self.spec.stages) + 1))
        return [block for layer in layers for block in layer.children()]  # type: ignore[misc]

    def embed(self, x: Tensor) -> Tensor:
        """A quarter of the grid, down and across."""
        return self.maxpool(F.relu(self.bn1(self.conv1(x))))


class ResNetBackbone(Backbone, ResNet):  # type: ignore[misc]
    """The one that is trained."""

    def stem(self, x: Tensor) -> Tensor:
        """The stream [B, C, H, W]."""
        return self.embed(x)

    def tail(self, x: Tensor) -> Tensor:
        """Nothing follows the last block."""
        return x


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> ResNet:
    """A model of the described shape, weights not yet set (see `initialize`); arguments as in `family.Network`."""
    return (ResNetBackbone if trained else ResNet)(spec, rates or {})


def initialize(model: Any) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
    for block in model.blocks:
        if block.has_branch:
            adds_nothing(block.bn2)
