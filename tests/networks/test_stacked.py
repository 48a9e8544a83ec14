"""Weights of all blocks in one memory."""

from copy import deepcopy

import torch

from lightning_vitc.budget.prunable import energies, outlets
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.stacked import as_one, stacked

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "num_heads": 3, "depth": 4, "num_classes": 10}


def test_what_is_done_to_all_is_done_to_each() -> None:
    network = create_backbone("deit_tiny_patch16_224", **TINY)
    before, weights = deepcopy(network.state_dict()), outlets(network)[0][1]
    whole = stacked(weights)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    whole.mul_(torch.arange(1.0, 5)[:, None, None])
    for number, weight in enumerate(weights):
        assert torch.equal(weight, before[f"blocks.{number}.mlp.fc2.weight"] * (number + 1))
        assert isinstance(weight, torch.nn.Parameter)
        assert weight.requires_grad


def test_weights_are_moved_once_and_again_where_they_were_moved_apart() -> None:
    network = create_backbone("deit_tiny_patch16_224", **TINY)
    weights = outlets(network)[0][0]
    assert as_one(weights) is None
    memory = stacked(weights).data_ptr()
    assert stacked(weights).data_ptr() == memory
    weights[2].data = weights[2].data.clone()
    assert as_one(weights) is None
    assert torch.equal(stacked(weights)[2], weights[2])
    assert as_one(weights[::-1]) is None, "another order"
    assert as_one([*weights[:2], weights[1]]) is None


def test_the_energies_are_those_of_each_weight_alone() -> None:
    network = create_backbone("deit_tiny_patch16_224", **TINY)
    dims, channels = energies(network)
    for number, (proj, fc2) in enumerate(zip(*outlets(network)[0], strict=True)):
        torch.testing.assert_close(dims[number].flatten(), proj.detach().square().sum(0), rtol=1e-6, atol=0)
        torch.testing.assert_close(channels[number], fc2.detach().square().sum(0), rtol=1e-6, atol=0)
