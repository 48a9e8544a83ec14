"""Tiny T2T-ViTs whose every weight matters."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_vitc.networks.backbone import Backbone
from tests.networks.own_models import drawn

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}


@pytest.fixture(params=["t2t_vit_14", "t2t_vit_t_14"])
def tiny(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


@pytest.fixture(scope="session")
def made() -> Callable[..., Backbone]:
    """`made("t2t_vit_14", depth=2)`."""
    return make


def make(name: str, **keys: Any) -> Backbone:
    # with more than 0.02, a performer's features vanish
    return drawn(name, SMALL | keys, lambda key: 0.02 if "kqv" in key else 0.2)
