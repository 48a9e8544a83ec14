"""Adaptors around a missing block: where they stand, that they start as nothing, and that they merge exactly."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_vitc.few_shot.adaptors import Adapted, adapted, merged
from lightning_vitc.networks.backbone import Backbone, create_backbone, from_spec
from lightning_vitc.networks.blocks import Stage, convolutions
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.networks.families.mobilenet.shape import Options
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.families.uniformer.names import uniformer
from lightning_vitc.networks.spec import ArchSpec

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 4, "num_classes": 5}
SWIN = {"img_size": 32, "window_size": 3, "embed_dim": 8, "depths": (2, 3), "num_heads": (2, 4), "num_classes": 5}
TIMMS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("deit3_small_patch16_224", VIT),
    "split": (
        "eva02_base_patch14_224",
        VIT,
    ),  # queries, keys and values have layers of their own
    "swin": ("swin_tiny_patch4_window7_224", SWIN),  # windows that the grid is padded for
}
INVERTED = tuple(Stage(width, (convolutions("inverted", 16), convolutions("inverted", 20))) for width in (8, 12))
SPECS = {
    "uniformer": uniformer(
        "uniformer_small", embed_dim=(8, 8, 16, 16), depths=(1, 2, 2, 1), num_heads=(2, 2), img_size=32, num_classes=5
    ),
    "resnet": resnet("resnet18", (3, 3), (8, 12), img_size=32, num_classes=5),
    "mobilenet": ArchSpec("mobilenetv2_100", "mobilenet", (32, 32), 3, 5, INVERTED, Options(16, 24, (1, 2))),
}
DROPPED = {"uniformer": 1, "vit": 2, "split": 1, "swin": 3, "resnet": 1, "mobilenet": 1}
TRAINED = {
    "uniformer": {"blocks1.0.mlp.fc2.1", "blocks2.0.conv1.0", "blocks3.0.attn.qkv.0", "blocks3.1.attn.qkv.0",
                  "blocks4.0.attn.qkv.0"},
    "vit": {"blocks.0.mlp.fc2.1", "blocks.1.mlp.fc2.1", "blocks.2.attn.qkv.0"},
    "split": {"blocks.0.mlp.fc2.1", "blocks.1.norm1.1", "blocks.2.norm1.1"},
    "swin": {"layers.0.blocks.0.mlp.fc2.1", "layers.0.blocks.1.mlp.fc2.1", "layers.1.blocks.0.mlp.fc2.1",
             "layers.1.blocks.1.attn.qkv.0"},
    "resnet": {"layer1.0.conv2.1", "layer1.1.conv1.0", "layer2.0.conv1.0", "layer2.0.downsample.0.0"},
    "mobilenet": {"blocks.0.0.conv_pwl.1", "blocks.1.0.conv_pw.0"},
}  # fmt: skip


@pytest.fixture(params=DROPPED)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def network(kind: str) -> Backbone:
    """With weights, biases and statistics that all matter."""
    torch.manual_seed(0)
    if kind in SPECS:
        made = from_spec(SPECS[kind])
    else:
        name, arguments = TIMMS[kind]
        made = create_backbone(name, **arguments)
    with torch.no_grad():
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif name.endswith("table"):
                tensor.normal_()
    return made.eval()


@pytest.fixture
def images(network: Backbone) -> torch.Tensor:
    return torch.randn(2, 3, *network.spec.img_size, generator=torch.Generator().manual_seed(1))


def adaptors(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.adaptor.weight for name, module in network.named_modules() if isinstance(module, Adapted)}


def shaken(network: Backbone) -> Backbone:
    """With adaptors that do something."""
    for adaptor in adaptors(network).values():
        adaptor.data += 0.3 * torch.randn_like(adaptor)
    return network


def test_they_start_as_the_network_without_the_block(kind, network, images):
    with torch.no_grad():
        expected = compact(network, without_blocks(network, (DROPPED[kind],))).forward_features(images)
        found = adapted(network, DROPPED[kind]).eval().forward_features(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_nothing_else_is_trained(kind, network):
    trained = {name for name, one in adapted(network, DROPPED[kind]).named_parameters() if one.requires_grad}
    assert trained == {f"{name}.weight" for name in TRAINED[kind]}


def test_in_the_last_stage_nothing_comes_later():
    trial = adapted(from_spec(SPECS["resnet"]), 5)  # layer2.2
    assert set(adaptors(trial)) == {"layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"}
    assert not any(module.before for module in trial.modules() if isinstance(module, Adapted))


def test_merged_they_are_the_trial(kind, network, images):
    """Without a layer more, and without a change of the network that the trial is of."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    block = DROPPED[kind]
    trial = shaken(adapted(network, block)).eval()
    small = merged(network, {block: trial}, (block,)).eval()
    assert not adaptors(small)
    with torch.no_grad():
        wanted, found = trial.forward_features(images), small.forward_features(images)
        start = compact(network, without_blocks(network, (block,))).forward_features(images)
    size = wanted.abs().max()
    torch.testing.assert_close(found / size, wanted / size, rtol=0, atol=1e-5)
    assert not torch.allclose(wanted / size, start / size, rtol=0, atol=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_of_several_trials_all_adaptors_of_a_layer_are_multiplied_in():
    """layer1.1 and layer1.2 are gone: the entries of layer2.0 get the adaptors of both, layer1.0 too."""
    network = from_spec(SPECS["resnet"])
    trials = {block: shaken(adapted(network, block)) for block in (1, 2)}
    small = merged(network, trials, (1, 2))
    first, second = (adaptors(trials[block])["layer2.0.conv1"].flatten(1) for block in (1, 2))
    expected = torch.einsum("ojhw,jk,ki->oihw", network.get_submodule("layer2.0.conv1").weight, first, second)
    torch.testing.assert_close(small.get_submodule("layer2.0.conv1").weight, expected, rtol=0, atol=1e-5)
    first, second = (adaptors(trials[block])["layer1.0.conv2"].flatten(1) for block in (1, 2))
    expected = torch.einsum("op,pq,qihw->oihw", second, first, network.get_submodule("layer1.0.conv2").weight)
    torch.testing.assert_close(small.get_submodule("layer1.0.conv2").weight, expected, rtol=0, atol=1e-5)
