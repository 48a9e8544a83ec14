"""What a family says of its networks, against networks: names and axes of the state dict, costs."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc.networks import costs
from lightning_vitc.networks.axes import Axis, Halved, Stretch, Tiled, sizes
from lightning_vitc.networks.families.family import network_of, shape_of
from lightning_vitc.networks.spec import ArchSpec


def check_costs_and_layout(spec: ArchSpec) -> None:
    """What the network costs when it runs, and `check_layout`."""
    with torch.device("meta"):
        model = network_of(spec).build(spec, {}).eval().requires_grad_(False)
        network_of(spec).place_buffers(model, torch.device("meta"))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
            model(torch.empty(1, spec.in_chans, *spec.img_size))
    assert costs.executed(spec) == counter.get_total_flops() // 2
    assert costs.params(spec) == sum(parameter.numel() for parameter in model.parameters())
    check_layout(spec, model.state_dict())


def check_layout(spec: ArchSpec, weights: Mapping[str, Tensor], **free_axes: int) -> None:
    """Exactly these names, and every dimension as long as its axis.

    Args:
        spec: of the network.
        weights: its state dict.
        free_axes: sizes of axes that nothing cuts, which `sizes` does not know.
    """
    layout, of_axis = dict(named(spec)), sizes(spec) | free_axes
    assert layout.keys() == weights.keys()
    for name, axes in layout.items():
        shape = weights[name].shape
        for known, length in zip(sizes_along(axes, of_axis, shape), shape, strict=True):
            assert known in (None, length), (name, axes)


def named(spec: ArchSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Of the whole state dict."""
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
