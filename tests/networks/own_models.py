"""Tiny networks of our own model classes whose every weight and statistic matters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.networks.backbone import Backbone, create_backbone

NORMS = ("norm.weight", "norm1.weight", "norm2.weight")


def drawn(name: str, keys: dict[str, Any], spread: Callable[[str], float] = lambda key: 0.2) -> Backbone:
    """A network with random weights: gains of norms around 1, others around 0, variances between 0.5 and 2.

    Args:
        name: of the model.
        keys: of `model`.
        spread: the standard deviation of a weight, by its name.
    """
    torch.manual_seed(0)
    model = create_backbone(name, **keys).eval()
    constants = getattr(model, "constants", ())
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and key not in constants:
                value.normal_(1.0 if key.endswith(NORMS) else 0.0, spread(key))
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return model


def images(model: Backbone, count: int = 2) -> Tensor:
    """Of the size that the network takes."""
    return torch.randn(count, model.spec.in_chans, *model.spec.img_size)
