"""Tensors of all blocks as one: what is done with every one of them is then one kernel, not one a block."""

from collections.abc import Sequence

import torch
from torch import Tensor


def as_one(tensors: Sequence[Tensor]) -> Tensor | None:
    """A view [n, ...] of tensors that lie one after another in one memory; `None` where they do not."""
    first, size = tensors[0].detach(), tensors[0].numel()
    memory, start = first.untyped_storage()._cdata, first.storage_offset()
    for number, tensor in enumerate(tensors):
        place = tensor.untyped_storage()._cdata, tensor.storage_offset()
        alike = tensor.shape == first.shape and tensor.dtype == first.dtype and tensor.is_contiguous()
        if place != (memory, start + number * size) or not alike:
            return None
    return first.as_strided((len(tensors), *first.shape), (size, *first.stride()))


@torch.no_grad()
def stacked(weights: Sequence[Tensor]) -> Tensor:
    """A view [n, ...] of weights of one shape, which are moved into one memory where they are in several.

    What is done to it is done to them. They stay apart for all others: for the optimizer, for a checkpoint.
    """
    whole = as_one(weights)
    if whole is None:
        whole = torch.stack([weight.detach() for weight in weights])
        for weight, place in zip(weights, whole.unbind(), strict=True):
            weight.data = place
    return whole
