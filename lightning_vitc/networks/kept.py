"""Which weights of a network a smaller one keeps, and how to pick them out.

`Kept` is what every method decides in the end: positions on the axes of the network that it is cut from. Running a
sub-network during training and removing weights for good read the same positions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_vitc.networks.axes import Axis, Halved, Inner, Stretch, Tiled
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.spec import ArchSpec, place_of
from lightning_vitc.networks.transfer import sent

Index = slice | Tensor  # a slice gives a view, a tensor of positions a copy
Indices = Mapping[str | Inner, Index]
Where = tuple[Index | None, ...]  # of every dimension what is kept; `None` for all
Heads = Literal["both", "distillation"]


@dataclass(frozen=True, eq=False)
class Kept:
    """A sub-network: the architecture that remains and where its weights are in the one it is cut from.

    With `heads="distillation"` it predicts by its distillation head alone, see `_without_class_head`.

    Attributes:
        spec: what remains.
        indices: what is kept of an axis of the larger network, whose numbers its blocks have here; an axis that is
            not named stays whole.
        sources: the number that each block had in the larger network.
        depths: how many blocks each stage of the larger network has.
        statistics: of batch norms, by their names in the sub-network, where it has others than the larger network.
    """

    spec: ArchSpec
    indices: Indices
    sources: tuple[int, ...]
    depths: tuple[int, ...]
    heads: Heads = "both"
    _on_device: dict[torch.device, "Kept"] = field(default_factory=dict, repr=False)
    statistics: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    on_host: Indices | None = field(default=None, repr=False)  # the positions of one that is on a device
    kinds: dict[Any, Any] = field(default_factory=dict, repr=False)  # of `shared_weights`, found once

    @classmethod
    def of(
        cls, larger: ArchSpec, spec: ArchSpec, indices: Indices, sources: tuple[int, ...] | None = None,
        heads: Heads = "both",
    ) -> "Kept":  # fmt: skip
        """A part of `larger`; `sources` where blocks are gone."""
        return cls(spec, indices, tuple(range(larger.depth)) if sources is None else sources, larger.depths, heads)

    def __repr__(self) -> str:
        """One line."""
        return f"Kept({self.spec.depth} of {sum(self.depths)} blocks, {len(self.indices)} axes cut)"

    def to(self, device: torch.device) -> "Kept":
        """The same with positions on `device`; copied there once."""
        if device not in self._on_device:
            indices = {axis: index if isinstance(index, slice) else sent(index, device)
                       for axis, index in self.indices.items()}  # fmt: skip
            statistics = {name: sent(tensor, device) for name, tensor in self.statistics.items()}
            self._on_device[device] = replace(
                self, indices=indices, statistics=statistics, _on_device={}, on_host=self.on_host or self.indices
            )
        return self._on_device[device]

    def with_statistics(self, statistics: Mapping[str, Tensor]) -> "Kept":
        """The same with statistics of its own."""
        return replace(self, statistics=statistics, _on_device={})


def gather(weights: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """The sub-network's weights and buffers by their names there; differentiable, views where the positions allow.

    Args:
        weights: of the larger network; those that are missing are missing in the smaller one.
        kept: what remains.
    """
    kept = kept.to(next(iter(weights.values())).device)
    smaller = {name: _picked(weights[source], axes, kept) for name, source, axes in names_of(kept) if source in weights}
    smaller |= {name: tensor for name, tensor in kept.statistics.items() if name in smaller}
    return smaller if kept.heads == "both" else smaller | _without_class_head(smaller)


def names_of(kept: Kept) -> tuple[tuple[str, str, tuple[Axis, ...]], ...]:
    """Of every weight that remains: its name, that in the larger network, and its axes there."""
    return _names(kept.spec, kept.sources, kept.depths)


@lru_cache(maxsize=256)
def _names(
    spec: ArchSpec, sources: tuple[int, ...], depths: tuple[int, ...]
) -> tuple[tuple[str, str, tuple[Axis, ...]], ...]:
    return tuple(_each_name(spec, sources, depths))


def _without_class_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A class head of zeros and twice the distillation head: the average of both, exactly the latter's logits.

    So a network whose class head was never trained stays a plain distilled one, in every format.
    """
    return {
        name: weight * 2 if name.startswith("head_dist.") else torch.zeros_like(weight)
        for name, weight in weights.items()
        if name.startswith(("head.", "head_dist."))
    }


def _each_name(
    spec: ArchSpec, sources: tuple[int, ...], depths: tuple[int, ...]
) -> Iterator[tuple[str, str, tuple[Axis, ...]]]:
    shape = shape_of(spec)
    layout = shape.layout(spec)
    yield from ((name, name, axes) for name, axes in layout.around.items())
    for number, (source, names) in enumerate(zip(sources, layout.blocks, strict=True)):
        here, there = shape.block_prefix(*spec.place(number)), shape.block_prefix(*place_of(source, depths))
        for name, axes in names.items():
            yield here + name, there + name, tuple(_of_block(axis, source) for axis in axes)


def _of_block(axis: Axis, source: int) -> Axis:
    """The axis under the number that its block has in the larger network."""
    if isinstance(axis, Inner):
        return axis._replace(block=source)
    if isinstance(axis, Stretch | Halved):
        return axis._replace(axis=axis.axis._replace(block=source))
    if isinstance(axis, Tiled):
        inner = axis.axis
        return axis._replace(axis=inner._replace(block=source)) if isinstance(inner, Inner) else axis
    return axis


def where_of(axes: tuple[Axis, ...], kept: Kept, shape: torch.Size, device: torch.device) -> Where:
    """What is kept of each dimension of a weight of that shape, which runs along these axes."""
    return tuple(_where(axis, kept, length, device) for axis, length in zip(axes, shape, strict=True))


def _where(axis: Axis, kept: Kept, length: int, device: torch.device) -> Index | None:
    if axis is None or isinstance(axis, str | Inner):
        return None if axis is None else kept.indices.get(axis)
    if (index := kept.indices.get(axis.axis)) is None:
        return None
    if isinstance(axis, Halved):
        return slice(index.start // 2, index.stop // 2) if isinstance(index, slice) else index[::2] // 2
    if isinstance(axis, Tiled):
        return _tiled(index, axis, length, device)
    return _stretch(index, (kept.on_host or kept.indices)[axis.axis], axis.number, length)


def _picked(weight: Tensor, axes: tuple[Axis, ...], kept: Kept) -> Tensor:
    for dim, index in enumerate(where_of(axes, kept, weight.shape, weight.device)):
        if isinstance(index, slice):
            weight = weight.narrow(dim, index.start, index.stop - index.start)
        elif index is not None:
            weight = weight.index_select(dim, index)
    return weight


def _tiled(index: Index, tiles: Tiled, length: int, device: torch.device) -> Tensor:
    """Positions along a dimension of `length` that holds the axis several times."""
    size = length // (tiles.outer * tiles.inner)
    kept = torch.arange(size, device=device)[index] if isinstance(index, slice) else index
    starts = torch.arange(tiles.outer, device=device)[:, None, None] * size * tiles.inner
    return (starts + kept[:, None] * tiles.inner + torch.arange(tiles.inner, device=device)).flatten()


def _stretch(index: Index, on_host: Index, number: int, length: int) -> Index:
    """What of an axis is kept in one of its stretches, counted from where that begins; the host knows how many."""
    first = number * length
    if isinstance(index, slice):
        start, stop = (min(max(end - first, 0), length) for end in (index.start, index.stop))
        return slice(start, stop)
    assert isinstance(on_host, Tensor)
    start, stop = (int((on_host < end).sum()) for end in (first, first + length))
    return index[start:stop] - first
