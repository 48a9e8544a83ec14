"""Tiny T2T-ViTs whose every weight matters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_vitc.networks.backbone import Backbone, create_backbone


@pytest.fixture(params=["t2t_vit_14", "t2t_vit_t_14"])
def tiny(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


@pytest.fixture(scope="session")
def made() -> Callable[..., Backbone]:
    """`made("t2t_vit_14", depth=2)`."""
    return make


def make(name: str, **keys: Any) -> Backbone:
    torch.manual_seed(0)
    small = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}
    model = create_backbone(name, **small | keys).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 0.02 if "kqv" in key else 0.2  # with more, a performer's features vanish
                parameter.normal_(1.0 if "norm" in key and key.endswith("weight") else 0.0, scale)
    return model
