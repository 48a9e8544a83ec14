"""Weights into a network: all of them, or none."""

from collections.abc import Mapping

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
    """Refuse weights whose names and shapes are not those of the model.

    Raises:
        UserError: naming the first weight that is missing, left over or of another shape.
    """
    own = model.state_dict()
    must_have_its_names(own, weights, source)
    for key, value in own.items():
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
