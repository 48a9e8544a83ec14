"""Weights that a sub-network shares with the whole network, cut and differentiated for all blocks at once.

`kept.gather` cuts weight by weight; autograd then writes every gradient into zeros of the whole weight's size and adds
them up: a thousand operators a sub-network. Where all blocks are cut alike, as by a width, it can be some dozens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_vitc.networks.kept import Index, Kept, Where, gather, names_of, where_of
from lightning_vitc.networks.stacked import as_one
from lightning_vitc.networks.transfer import sent


@dataclass(frozen=True)
class Kind:
    """Weights of one shape that are cut alike."""

    positions: tuple[int, ...]  # among the network's weights
    where: Where


def shared(weights: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """What `gather` gives, and the same gradients in `grad` of the weights.

    The backward pass adds the sub-network's gradients to those in `grad`, and takes these over: it is for
    `loss.backward()`, not for `torch.autograd.grad` where there are gradients already.
    """
    leaves = torch.is_grad_enabled() and all(weight.is_leaf for weight in weights.values())
    kinds = kinds_of(weights, kept) if leaves and not torch.compiler.is_compiling() else None
    return gather(weights, kept) if kinds is None else dict(
        zip(weights, _Cut.apply(kinds, *weights.values()), strict=True)
    )  # fmt: skip


def kinds_of(weights: Mapping[str, Tensor], kept: Kept) -> tuple[Kind, ...] | None:
    """The weights by kind, found once for a sub-network; `None` where it lacks some."""
    first = next(iter(weights.values()))
    key = first.device, tuple(weights)
    if key not in kept.kinds:
        kept.kinds[key] = _kinds(weights, kept, first.device)
    return kept.kinds[key]


class _Cut(torch.autograd.Function):
    """The kept part of every weight."""

    @staticmethod
    def forward(ctx: Any, kinds: tuple[Kind, ...], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.kinds, ctx.weights = kinds, weights
        ctx.set_materialize_grads(False)
        pieces: dict[int, Tensor] = {}
        for kind in kinds:
            cut = _pieces([weights[position] for position in kind.positions], kind.where)
            pieces.update(zip(kind.positions, cut, strict=True))
        return tuple(pieces[position] for position in range(len(weights)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        sums: list[Tensor | None] = [None] * len(gradients)
        for kind in ctx.kinds:
            weights = [ctx.weights[position] for position in kind.positions]
            of_pieces = [gradients[position] for position in kind.positions]
            known = next((gradient for gradient in of_pieces if gradient is not None), None)
            if known is not None and any(weight.requires_grad for weight in weights):
                all_pieces = [torch.zeros_like(known) if gradient is None else gradient for gradient in of_pieces]
                for position, total in zip(kind.positions, _added(weights, all_pieces, kind.where), strict=True):
                    sums[position] = total
        return None, *sums


def _pieces(weights: list[Tensor], where: Where) -> Sequence[Tensor]:
    regions = [_narrowed(weight, where) for weight in weights]
    index = _index(where)
    return regions if index is None else torch.stack(regions).index_select(index[0] + 1, index[1]).unbind()


def _added(weights: list[Tensor], gradients: Sequence[Tensor], where: Where) -> Sequence[Tensor]:
    """The gradients so far and these. Autograd is handed the sums in the place of `grad`, which costs no copy."""
    so_far = [weight.grad for weight in weights if weight.grad is not None]
    if len(so_far) < len(weights):
        so_far = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    one = as_one(so_far)
    total = torch.stack(so_far) if one is None else one
    new = gradients[0][None] if len(gradients) == 1 else torch.stack(list(gradients))
    region, index = _narrowed(total, (None, *where)), _index(where)
    region.add_(new) if index is None else region.index_add_(index[0] + 1, index[1], new)
    for weight in weights:
        weight.grad = None
    return total.unbind()


def _narrowed(weight: Tensor, where: Where) -> Tensor:
    """A view of what slices keep."""
    for dim, index in enumerate(where):
        if isinstance(index, slice):
            weight = weight.narrow(dim, index.start, index.stop - index.start)
    return weight


def _index(where: Where) -> tuple[int, Tensor] | None:
    """The dimension of which positions are kept, and these; at most one is cut so."""
    return next(((dim, index) for dim, index in enumerate(where) if isinstance(index, Tensor)), None)


def _kinds(weights: Mapping[str, Tensor], kept: Kept, device: torch.device) -> tuple[Kind, ...] | None:
    """They are compared on the host, where positions come from; the device would have to be waited for."""
    found: dict[Any, Kind] = {}
    named = {source: axes for name, source, axes in names_of(kept) if name == source and source in weights}
    if kept.heads != "both" or named.keys() != weights.keys():  # blocks or branches are gone, or heads changed
        return None
    for position, (name, weight) in enumerate(weights.items()):
        where = where_of(named[name], kept, weight.shape, torch.device("cpu"))
        if sum(isinstance(index, Tensor) for index in where) > 1:
            return None
        key = weight.shape, tuple(map(_comparable, where))
        known = found.get(key) or Kind((), tuple(_sent(index, device) for index in where))
        found[key] = Kind((*known.positions, position), known.where)
    return tuple(found.values())


def _sent(index: Index | None, device: torch.device) -> Index | None:
    return sent(index, device) if isinstance(index, Tensor) else index


def _comparable(index: Index | None) -> Any:
    if isinstance(index, Tensor):
        return tuple(index.tolist())
    return None if index is None else (index.start, index.stop)
