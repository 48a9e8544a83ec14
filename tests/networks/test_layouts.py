"""What a family says its weights are called, and along which axes they run, against the models of timm."""

from fractions import Fraction

import pytest
import timm
import torch

from lightning_vitc.networks.families.mobilenet.shape import mobilenet
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.networks.spec import ArchSpec
from tests.networks.layouts import check_layout


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("swin_tiny_patch4_window7_224", swin("t", 96, (2, 2, 6, 2), (3, 6, 12, 24))),
        ("swin_large_patch4_window12_384", swin("l", 192, (2, 2, 18, 2), (6, 12, 24, 48), 12, 384)),
        ("resnet34", resnet("r", (3, 4, 6, 3))),
        ("mobilenetv2_100", mobilenet()),
        ("mobilenetv2_050", mobilenet().at_width(Fraction("0.5"))),
    ],
)
def test_names_and_axes_are_those_of_the_state_dict(name: str, spec: ArchSpec) -> None:
    with torch.device("meta"):
        weights = timm.create_model(name).state_dict()
    check_layout(spec, weights)
