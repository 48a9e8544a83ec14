"""Small networks of every kind that DC-ViT compresses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_vitc.networks.backbone import Backbone, create_backbone

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"depth": 4}),
    "deit": ("deit_tiny_patch16_224", {"depth": 5}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"depth": 4}),
    "deit3": ("deit3_small_patch16_224", {"depth": 4}),
    "registers": ("vit_tiny_patch16_224", {"depth": 4, "reg_tokens": 3}),
    "qk_norm": ("vit_tiny_patch16_224", {"depth": 4, "qk_norm": True}),
    "average": ("vit_tiny_patch16_224", {"depth": 4, "global_pool": "avg", "class_token": False}),
}


def small_network(kind: str = "vit", **changes: Any) -> Backbone:
    """A network with weights that make every part of it count."""
    torch.manual_seed(0)
    name, options = KINDS[kind]
    network = create_backbone(name, **{**SMALL, **options, **changes}).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            parameter.normal_(1.0 if "gamma" in key or ("norm" in key and key.endswith("weight")) else 0.0, 0.3)
    return network


@pytest.fixture(params=list(KINDS))
def any_network(request: pytest.FixtureRequest) -> Backbone:
    """One of each kind."""
    return small_network(request.param)


@pytest.fixture
def make_network() -> Callable[..., Backbone]:
    """`make_network("deit3", depth=6)`."""
    return small_network


@pytest.fixture
def images() -> torch.Tensor:
    """A few images."""
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
