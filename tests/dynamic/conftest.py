"""A network whose gates differ, by block and by image."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_vitc.networks.backbone import Backbone, create_backbone, from_spec
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.shapes import GATES

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "num_heads": 3, "depth": 4, "num_classes": 10}


@pytest.fixture
def gated() -> Backbone:
    """Random gates of all seven kinds, each of which runs for some images and not for others."""
    return with_random_gates()


def with_random_gates(**keys: Any) -> Backbone:
    """A network with `keys` of timm beside the size."""
    torch.manual_seed(1)
    dense, names = create_backbone("deit_tiny_patch16_224", **TINY, **keys), list(GATES)
    pairs = [(names[number], names[(number + 4) % 7]) for number in range(4)]
    network = from_spec(dense.spec.with_gates(pairs))
    for gate in network.modules():
        if isinstance(gate, GateNetwork):
            nn.init.normal_(gate.last.weight, std=5.0)
            nn.init.zeros_(gate.last.bias)
    return network.eval()


@pytest.fixture(params=[
    {"init_values": 0.5}, {"qk_norm": True}, {"reg_tokens": 2}, {"global_pool": "avg", "class_token": False},
], ids=["LayerScale", "qk-norm", "registers", "average pooling"])  # fmt: skip
def relative(request: pytest.FixtureRequest) -> Backbone:
    """The same gates in other networks than DeiT."""
    return with_random_gates(**request.param)


@pytest.fixture
def images() -> torch.Tensor:
    """Thirteen."""
    return torch.randn(13, 1, 8, 8, generator=torch.Generator().manual_seed(0))
