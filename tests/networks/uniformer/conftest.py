"""Tiny UniFormers whose every weight and statistic matters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_vitc.networks.backbone import Backbone, create_backbone


@pytest.fixture(params=["uniformer_small", "uniformer_small_plus"])
def tiny(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


@pytest.fixture(scope="session")
def made() -> Callable[..., Backbone]:
    """`made("uniformer_small", depths=[1, 1, 1, 1])`."""
    return make


def make(name: str, **keys: Any) -> Backbone:
    torch.manual_seed(0)
    small = {"img_size": 32, "embed_dim": [8, 16, 16, 24], "depths": [2, 1, 2, 2], "num_heads": [2, 3],
             "num_classes": 5}  # fmt: skip
    model = create_backbone(name, **small | keys).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                middle = 1.0 if key.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
                value.normal_(middle, 0.2)
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return model
