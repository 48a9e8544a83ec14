"""What a family says its weights are called, and along which axes they run, against the models of timm."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
import timm
import torch

from lightning_vitc.networks.axes import Axis, Tiled, sizes
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.families.mobilenet.shape import STEM, mobilenet
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.networks.spec import ArchSpec


def named(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    shape = shape_of(spec)
    layout = shape.layout(spec)
    yield from layout.around.items()
    for number, names in enumerate(layout.blocks):
        prefix = shape.block_prefix(*spec.place(number))
        yield from ((prefix + name, axes) for name, axes in names.items())


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
    layout, of_axis = dict(named(spec)), sizes(spec) | {STEM: getattr(spec.options, STEM, 0)}
    assert layout.keys() == weights.keys()
    for key, axes in layout.items():
        assert len(axes) == weights[key].ndim, key
        for axis, length in zip(axes, weights[key].shape, strict=True):
            times = axis.outer * axis.inner if isinstance(axis, Tiled) else 1
            one = axis.axis if isinstance(axis, Tiled) else axis
            assert one is None or times * of_axis[one] == length, (key, axis)
