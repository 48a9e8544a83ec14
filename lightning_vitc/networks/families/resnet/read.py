"""Read the ArchSpec off a timm ResNet of basic blocks, or refuse another kind of it, by its name."""

from collections.abc import Iterator
from typing import Any

from timm.models.resnet import BasicBlock
from timm.models.resnet import ResNet as Upstream
from torch import nn

from lightning_vitc.networks.blocks import Stage, convolutions
from lightning_vitc.networks.families.resnet.shape import Options
from lightning_vitc.networks.modules.conv_net import ConvNet, size_of
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse


def read(model: Any) -> ArchSpec | None:
    """The architecture of a ResNet; `None` for a model of another class.

    Raises:
        UserError: for another kind of it: a deep stem, bottlenecks, squeeze and excitation, other norms.
    """
    if isinstance(model, ConvNet):
        return model.spec if model.spec.family == "resnet" else None
    return _read(model) if isinstance(model, Upstream) else None


def _read(model: Any) -> ArchSpec:
    if (why := next(_other_kinds(model), None)) is not None:
        refuse(name_of(model), why)
    layers = [getattr(model, f"layer{number}") for number in range(1, 1 + _stages(model))]
    stages = tuple(
        Stage(layer[0].conv2.out_channels, tuple(convolutions("basic", block.conv1.out_channels) for block in layer))
        for layer in layers
    )
    options = Options(norm_eps=model.bn1.eps)
    return ArchSpec(
        name_of(model), "resnet", size_of(model), model.conv1.in_channels, model.num_classes, stages, options
    )


def _stages(model: Any) -> int:
    return next(number for number in range(9) if not hasattr(model, f"layer{number + 1}"))


def _other_kinds(model: Any) -> Iterator[str]:
    """Whatever a plain ResNet has not."""
    layers = [getattr(model, f"layer{number}") for number in range(1, 1 + _stages(model))]
    blocks = [block for layer in layers for block in layer]
    if not isinstance(model.conv1, nn.Conv2d):
        yield "its stem is deep"
    if not isinstance(model.maxpool, nn.MaxPool2d):
        yield "its stem is not pooled by maxima alone"
    if not all(layers):
        yield "a stage of it has no blocks"
    for block in blocks:
        if not isinstance(block, BasicBlock):
            yield f"its blocks are {type(block).__name__}s"
        elif block.se is not None or not isinstance(block.aa, nn.Identity):
            yield "its blocks have more than two convolutions"
        elif type(block.bn1) is not nn.BatchNorm2d or type(block.act1) is not nn.ReLU:
            yield f"its norm is a {type(block.bn1).__name__}, its activation a {type(block.act1).__name__}"
        elif not isinstance(block.drop_block, nn.Identity):
            yield "it drops parts of its grids"
    for stage, layer in enumerate(layers):
        yield from _other_stages(stage, layer)
    if model.global_pool.pool_type != "avg":
        yield f"it pools by {model.global_pool.pool_type or 'nothing'}"


def _other_stages(stage: int, layer: Any) -> Iterator[str]:
    first = layer[0]
    if (first.downsample is not None) != (stage > 0) or first.stride != 1 + (stage > 0):
        yield "its first stage changes the stream, or a later one does not"
    elif first.downsample is not None and not isinstance(first.downsample[0], nn.Conv2d):
        yield "it pools between its stages"
    elif any(block.dilation != 1 for block in layer):
        yield "its convolutions are dilated"
