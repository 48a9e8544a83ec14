"""Networks of convolutions, small, with batch norms that have seen something."""

from itertools import pairwise

import torch
from torch import nn

from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.blocks import Stage, convolutions
from lightning_vitc.networks.families.mobilenet.shape import Options
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.spec import ArchSpec

RESNET = resnet("resnet18", (2, 2), (8, 16), img_size=32, num_classes=5)


def mobilenet(stem: int = 16, widths: tuple[int, ...] = (8, 16, 16), strides: tuple[int, ...] = (1, 2, 1)) -> ArchSpec:
    """Three stages, of which the last begins with a shortcut where it is as wide as the one before."""
    stages = [Stage(widths[0], (convolutions("separable", stem),))]
    for before, width in pairwise(widths):
        stages.append(Stage(width, (convolutions("inverted", 6 * before), convolutions("inverted", 6 * width))))
    options = Options(stem=stem, head=32, strides=strides)
    return ArchSpec("mobilenetv2_100", "mobilenet", (32, 32), 3, 5, tuple(stages), options)


SPECS = {"resnet": RESNET, "mobilenet": mobilenet()}


def of_use(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and statistics that all matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias):
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
                for tensor in (module.running_var, module.weight):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def network(family: str) -> Backbone:
    """Of `SPECS`."""
    torch.manual_seed(0)
    return of_use(from_spec(SPECS[family])).eval()  # type: ignore[return-value]


def images(count: int = 4) -> torch.Tensor:
    """Of 32 pixels."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
