"""Tiny UniFormers whose every weight and statistic matters."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_vitc.networks.backbone import Backbone
from tests.networks.own_models import drawn

SMALL = {
    "img_size": 32, "embed_dim": [8, 16, 16, 24], "depths": [2, 1, 2, 2], "num_heads": [2, 3], "num_classes": 5,
}  # fmt: skip


@pytest.fixture(params=["uniformer_small", "uniformer_small_plus"])
def tiny(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


@pytest.fixture(scope="session")
def made() -> Callable[..., Backbone]:
    """`made("uniformer_small", depths=[1, 1, 1, 1])`."""
    return make


def make(name: str, **keys: Any) -> Backbone:
    return drawn(name, SMALL | keys)
