"""What is frozen stays as it is, to the bit, and nothing is computed for its gradients; in every family."""

import pytest
import torch

from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.layers import is_before

NETWORKS = {
    "vit_small_patch14_dinov2": dict(img_size=28, embed_dim=32, depth=3, num_heads=2),
    "deit_tiny_distilled_patch16_224": dict(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2),
    "vit_small_patch16_dinov3": dict(img_size=32, embed_dim=32, depth=3, num_heads=2),
    "beit_base_patch16_224": dict(img_size=32, embed_dim=32, depth=3, num_heads=2),
    "swin_tiny_patch4_window7_224": dict(img_size=32, window_size=2, embed_dim=16, depths=[1, 3], num_heads=[1, 2]),
    "t2t_vit_14": dict(img_size=32, embed_dim=32, depth=3, num_heads=2),
    "uniformer_small": dict(img_size=32, embed_dim=[16, 32, 64, 64], depths=[3, 1, 1, 1], num_heads=[2, 2]),
    "resnet34": dict(img_size=32, depths=[1, 2, 1, 1]),
    "mobilenetv2_100": dict(img_size=32),
}


def network_of(name: str) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, num_classes=5, drop_path_rate=0.5, **NETWORKS[name])


def steps(network: Backbone, count: int = 2) -> None:
    """Of AdamW with a strong decay, on all that is trained."""
    network.train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for seed in range(count):
        images = torch.randn(4, 3, *network.spec.img_size, generator=torch.Generator().manual_seed(seed))
        logits = network(images)
        (logits[0] if isinstance(logits, tuple) else logits).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_and_statistics_before_the_block_stay(name: str) -> None:
    network = network_of(name)
    network.freeze(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    steps(network)
    after = network.state_dict()
    resting = {key for key in before if is_before(key, 2, network.spec)}
    assert resting
    assert all(torch.equal(before[key], after[key]) for key in resting)
    moved = {key for key, parameter in network.named_parameters() if not torch.equal(before[key], parameter)}
    assert moved == {key for key, _ in network.named_parameters()} - resting - network.constants


@pytest.mark.parametrize("name", NETWORKS)
def test_no_graph_is_built_and_nothing_is_drawn_before_the_block(name: str) -> None:
    network = network_of(name)
    network.freeze(2)
    network.train()
    images = torch.randn(2, 3, *network.spec.img_size)
    once, again = network.entering(2, images), network.entering(2, images)
    assert not once.requires_grad
    assert torch.equal(once, again)
    assert network.entering(3, images).requires_grad
    assert network.blocks[2].training
    assert not any(part.training for block in (network.blocks[0], network.blocks[1]) for part in block.modules())


def test_of_no_block_nothing_is_frozen() -> None:
    network = network_of("t2t_vit_14")
    network.freeze(2)
    network.freeze(0)
    frozen = {key for key, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == network.constants
    assert all(part.training for part in network.train().modules())
