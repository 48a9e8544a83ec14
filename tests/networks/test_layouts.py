"""What a family says its weights are called, and along which axes they run, against the models of timm."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
import timm
import torch

from lightning_vitc.networks.axes import Axis, Halved, Stretch, Tiled, sizes
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


def sizes_along(axes: tuple[Axis, ...], of_axis: dict, shape: torch.Size) -> list[int | None]:
    """The length that each dimension of a weight must have; `None` where it is free."""
    found: list[int | None] = []
    for axis, length in zip(axes, shape, strict=True):
        if isinstance(axis, Stretch):
            found.append(length if (axis.number + 1) * length <= of_axis[axis.axis] else -1)
        elif isinstance(axis, Halved):
            found.append(of_axis[axis.axis] // 2)
        elif isinstance(axis, Tiled):
            found.append(axis.outer * axis.inner * of_axis[axis.axis])
        else:
            found.append(None if axis is None else of_axis[axis])
    return found


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
        shape = weights[key].shape
        for known, length in zip(sizes_along(axes, of_axis, shape), shape, strict=True):
            assert known in (None, length), (key, axes)
