"""Read the ArchSpec off a timm MobileNetV2, or refuse another kind of EfficientNet, by its name."""

from collections.abc import Iterator
from typing import Any

from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import nn

from lightning_vitc.networks.blocks import Block, Stage, convolutions
from lightning_vitc.networks.families.mobilenet.shape import Options
from lightning_vitc.networks.modules.conv_net import ConvNet, size_of
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse


def read(model: Any) -> ArchSpec | None:
    """The architecture of a MobileNetV2; `None` for a model of another class.

    Raises:
        UserError: for another kind of EfficientNet.
    """
    if isinstance(model, ConvNet):
        return model.spec if model.spec.family == "mobilenet" else None
    return _read(model) if isinstance(model, EfficientNet) else None


def _read(model: Any) -> ArchSpec:
    if (why := next(_other_kinds(model), None)) is not None:
        refuse(name_of(model), why)
    stages = tuple(Stage(_width(stage[0]), tuple(map(_block, stage))) for stage in model.blocks)
    options = Options(
        stem=model.conv_stem.out_channels, head=model.conv_head.out_channels,
        strides=tuple(stage[0].conv_dw.stride[0] for stage in model.blocks), norm_eps=model.bn1.eps,
    )  # fmt: skip
    return ArchSpec(
        name_of(model), "mobilenet", size_of(model), model.conv_stem.in_channels, model.num_classes, stages, options
    )


def _block(block: Any) -> Block:
    return convolutions("inverted" if hasattr(block, "conv_pwl") else "separable", block.conv_dw.out_channels)


def _width(block: Any) -> int:
    return (block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw).out_channels


def _other_kinds(model: Any) -> Iterator[str]:
    """Whatever a MobileNetV2 has not."""
    if not isinstance(model.conv_head, nn.Conv2d):
        yield "it lacks the last convolution"
    for stage, blocks in enumerate(model.blocks):
        for at, block in enumerate(blocks):
            yield from _other_blocks(block, first=not (stage or at), narrows=at == 0)
    if model.global_pool.pool_type != "avg":
        yield f"it pools by {model.global_pool.pool_type or 'nothing'}"


def _other_blocks(block: Any, first: bool, narrows: bool) -> Iterator[str]:
    if type(block) is not (DepthwiseSeparableConv if first else InvertedResidual):
        yield f"its blocks are of class {type(block).__name__}"
        return
    if block.conv_s2d is not None or not isinstance(block.se, nn.Identity) or not isinstance(block.aa, nn.Identity):
        yield "its blocks have more than convolutions and norms"
    depthwise = block.conv_dw
    if type(depthwise) is not nn.Conv2d or depthwise.kernel_size != (3, 3) or depthwise.dilation != (1, 1):
        yield "its depthwise convolutions do not see 3x3 positions"
    if depthwise.groups != depthwise.out_channels:
        yield "its depthwise convolutions are of groups"
    if depthwise.stride != (1, 1) and not narrows:
        yield "the grid changes inside of a stage"
    if not isinstance(block.bn1, nn.BatchNorm2d):
        yield f"its norm is a {type(block.bn1).__name__}"
    elif type(block.bn1.act) is not nn.ReLU6:
        yield f"its activation is a {type(block.bn1.act).__name__}"
    outside = depthwise.in_channels if first else block.conv_pw.in_channels
    if block.has_skip != (outside == _width(block) and depthwise.stride == (1, 1)):
        yield "its blocks lack shortcuts"
