"""Weights into a network: all of them, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.errors import UserError


def load_strictly(model: torch.nn.Module, weights: dict[str, Tensor], source: str, assign: bool = False) -> None:
    """Load weights whose names and shapes are those of the model; `assign` as in torch.

    Raises:
        UserError: as `must_fit`.
    """
    must_fit(model, weights, source)
    model.load_state_dict(weights, assign=assign)


def must_fit(model: torch.nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights whose names, shapes and kinds of numbers are not those of the model.

    Raises:
        UserError: naming the first weight that is missing, left over, of another shape or no weight at all.
    """
    own = model.state_dict()
    must_have_its_names(own, weights, source)
    must_be_dense(weights, source)
    for key, value in own.items():
        if value.is_floating_point() != weights[key].is_floating_point():
            raise UserError(f"{source}: not a checkpoint of this model: {key} is of {weights[key].dtype}")
        if value.shape != weights[key].shape:
            raise UserError(
                f"{source}: not a checkpoint of this model: {key} is {list(weights[key].shape)}, "
                f"the model's is {list(value.shape)}"
            )


def must_have_its_names(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights whose names are not those of a model's own.

    Raises:
        UserError: naming the first weight that is missing or left over.
    """
    for key in sorted(own.keys() - weights.keys()):
        raise UserError(f"{source}: not a checkpoint of this model: {key} is missing")
    for key in sorted(weights.keys() - own.keys()):
        raise UserError(f"{source}: not a checkpoint of this model: it has {key}, which the model lacks")


def must_be_dense(weights: Mapping[Any, Any], source: str | Path) -> None:
    """Refuse what a file may hold in the place of weights, and torch cannot take for them.

    Raises:
        UserError: naming the first name that is none, or the first value that is not a dense tensor.
    """
    for key, value in weights.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: {key!r} is no name of a weight")
        if kind := _other_than_dense(value):
            raise UserError(f"{source}: {key} is {kind}; weights are dense tensors")


def must_be_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights of a training that diverged.

    Raises:
        UserError: naming the first weight with a value that is no number, or infinite.
    """
    for key, value in weights.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise UserError(f"{source}: {key} is not finite: the training that wrote it diverged; give an earlier file")


def _other_than_dense(value: Any) -> str | None:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided:
        return f"a sparse tensor ({value.layout})"
    if value.is_meta or value.is_nested:
        return "a tensor without numbers of its own"
    return f"quantized ({value.dtype})" if value.is_quantized else None
