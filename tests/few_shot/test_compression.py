"""Whole blocks that leave one after another: by their numbers in the dense network, and with what they leave."""

from types import SimpleNamespace

import pytest
import torch

from lightning_vitc.few_shot.compression import Blocks
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.units import chosen_candidates
from lightning_vitc.networks.backbone import Backbone, create_backbone, from_spec
from lightning_vitc.networks.dropped_attention import active_units, random_units, train_around
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.schema import BudgetConfig

RESNET = resnet("resnet18", (3, 4), (8, 12), img_size=32, num_classes=5)
KEYS = SimpleNamespace(units="random")


@pytest.fixture
def network() -> Backbone:
    torch.manual_seed(0)
    return from_spec(RESNET).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def blocks_of(spec, images, unit="block", partial=False, **budget) -> Blocks:
    plan = Elimination.of(BudgetConfig(**budget), spec, chosen_candidates(None, spec, unit), unit, partial=partial)
    return Blocks(plan, images, KEYS, seed=3)


def test_blocks_keep_their_numbers_while_others_leave(network, images):
    compression = blocks_of(RESNET, images, drop_blocks=3)
    small, done = network, []
    for candidate in (5, 1, 6):
        small = compression.compress_last(small, done, candidate)
        done.append(candidate)
    assert compression.left(done) == (0, 2, 3, 4)
    assert compression.columns(done) == {"blocks": [1, 5, 6]}
    assert small.spec == compression.plan.apply([5, 1, 6, 2])
    x = network.stem(images)
    for number in (0, 2, 3, 4):
        x = network.blocks[number](x)
    with torch.no_grad():
        torch.testing.assert_close(small.eval().forward_features(images), x, rtol=0, atol=1e-5)


def test_what_is_behind_the_last_one(images):
    """The block that has taken its place."""
    compression = blocks_of(RESNET, images, drop_blocks=3)
    assert [compression.behind(done) for done in ([1], [5], [5, 1], [5, 1, 2])] == [1, 5, 4, 3]


def test_the_last_one_in_part(network, images):
    """One and a half blocks: channels by (seed, block), which are noted; it is still there."""
    compression = blocks_of(RESNET, images, partial=True, macs="85%")
    chosen = compression.chosen([2, 5, 1])
    count = compression.plan.narrowed(chosen)
    assert (len(chosen), 0 < count < 12) == (2, True)
    assert compression.is_tried(chosen)
    small = compression.compress_last(compression.compress(network, [], 2), [2], 5)
    kept = random_units(12, count, 3, 4)
    assert compression.record(chosen) == {"5": kept.tolist()}
    assert torch.equal(small.blocks[4].conv1.weight, network.blocks[5].conv1.weight[kept])
    assert torch.equal(small.blocks[4].conv2.weight, network.blocks[5].conv2.weight[:, kept])
    assert torch.equal(small.blocks[4].bn1.running_var, network.blocks[5].bn1.running_var[kept])
    assert compression.left(chosen) == (0, 1, 3, 4, 5, 6)
    assert compression.columns(chosen) == {"blocks": [2], "narrowed": 5, "channels": count}
    assert compression.behind(chosen) == 5  # block 4 is the one that was 5
    assert small.spec == compression.plan.apply([2, 5, 1])


def test_a_single_one_in_part_is_not_that_of_its_trial(images):
    compression = blocks_of(RESNET, images, partial=True, macs="97%")
    assert not compression.is_tried(compression.chosen([5, 1]))
    assert blocks_of(RESNET, images, macs="97%").is_tried([5])


def test_active_channels_are_those_with_the_largest_mean(network, images):
    seen = []
    network.blocks[1].conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    wanted = seen[0].mean((0, 2, 3)).argsort(descending=True)[:3].sort().values
    assert torch.equal(active_units(network, 1, 3, images), wanted)


SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 6, 2), "num_heads": (2, 4, 8), "num_classes": 5}


def test_pairs_of_a_swin_transformer(images):
    """Two at a time; every block that stays keeps its own shift, and the frozen part includes what leads into it."""
    torch.manual_seed(0)
    network = create_backbone("swin_tiny_patch4_window7_224", **SWIN).eval()
    compression = blocks_of(network.spec, images, unit="pair", drop_blocks=2)
    assert chosen_candidates(None, network.spec, "pair") == [4]
    small = compression.compress(network, [], 4).eval()
    assert (compression.left([4]), compression.columns([4])) == ((0, 1, 2, 3, 6, 7, 8, 9), {"blocks": [4, 5]})
    assert [block.branches[0].shift for block in small.spec.blocks] == [0, 2] * 4
    x = network.stem(images)
    for number, block in enumerate(network.blocks):
        if number in (2, 8):
            x = network.enter(1 if number == 2 else 2, x)
        x = x if number in (4, 5) else block(x)
    with torch.no_grad():
        torch.testing.assert_close(small.forward_features(images), network.tail(x), rtol=0, atol=1e-5)
    train_around(small, compression.behind([4]))
    frozen = {name for name, one in small.named_parameters() if not one.requires_grad}
    assert {name for name in frozen if ".blocks." not in name} == {
        "layers.2.downsample.norm.weight", "layers.2.downsample.norm.bias", "layers.2.downsample.reduction.weight",
        "head.fc.weight", "head.fc.bias",
    }  # fmt: skip
    assert {name.split(".")[3] for name in frozen if name.startswith("layers.1.")} == {"3"}
    small.forward_features(images).square().mean().backward()
    assert all((one.grad is None) == (name in frozen) for name, one in small.named_parameters())


@pytest.mark.parametrize(("behind", "frozen"), [(3, set()), (2, {"layers.2.blocks.1"}), (1, {"layers.2.downsample",
                         "layers.2.blocks.0", "layers.2.blocks.1"})])  # fmt: skip
def test_a_merge_rests_with_the_first_block_of_its_stage(behind, frozen):
    """DC-ViT trains the embedding, the blocks up to the one behind the last compressed one, and the final norm."""
    arguments = SWIN | {"depths": (1, 1, 2)}
    network = create_backbone("swin_tiny_patch4_window7_224", **arguments)
    train_around(network, behind)
    rests = {".".join(name.split(".")[:4 if ".blocks." in name else 3]) for name, one in network.named_parameters()
             if not one.requires_grad and not name.startswith("head")}  # fmt: skip
    assert rests == frozen
