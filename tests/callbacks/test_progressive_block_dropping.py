"""What a fine-tuning may move is settled before the optimizer is made, and follows the compressed blocks."""

from types import SimpleNamespace

import pytest
import torch

from lightning_vitc.callbacks.progressive_block_dropping import ProgressiveBlockDropping
from lightning_vitc.config.registry import callbacks, load_callback
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.dropped_attention import drop_attention


@pytest.fixture
def module():
    """A network of six blocks as the module of a fine-tuning; `drop` compresses one more of them."""
    network = create_backbone("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, num_heads=2, depth=6)

    def drop(block: int) -> None:
        made.networks["one"] = drop_attention(made.networks["one"], block, 20, seed=0, images=torch.empty(0))
        made.behind["one"] = max(block + 1, made.behind["one"])

    made = SimpleNamespace(compresses=True, networks={"one": network}, behind={"one": 0}, drop=drop)
    return made


def trained_blocks(module) -> list[int]:
    blocks = module.networks["one"].blocks
    return [number for number, block in enumerate(blocks) if all(one.requires_grad for one in block.parameters())]


def test_it_reaches_one_block_after_the_last_compressed_one(module):
    callback = ProgressiveBlockDropping()
    reached = []
    for block in (2, 1, 4):
        module.drop(block)
        callback.setup(None, module, "fit")
        reached.append(trained_blocks(module))
    assert reached == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(("keys", "blocks"), [({"beyond": 0}, 2), ({"beyond": 2}, 4), ({"trained": "whole"}, 6)])
def test_how_far(module, keys, blocks):
    module.drop(1)
    ProgressiveBlockDropping(**keys).setup(None, module, "fit")
    assert trained_blocks(module) == list(range(blocks))
    assert not module.networks["one"].head.weight.requires_grad


def test_evaluation_changes_nothing(module):
    module.drop(1)
    ProgressiveBlockDropping().setup(None, module, "test")
    assert trained_blocks(module) == list(range(6))


def test_what_is_frozen_is_in_evaluation_mode(module):
    module.drop(1)
    callback = ProgressiveBlockDropping()
    callback.setup(None, module, "fit")
    module.networks["one"].train()
    callback.on_train_start(SimpleNamespace(global_step=1), module)  # of a run that continues in mid-epoch, too
    assert [block.training for block in module.networks["one"].blocks] == [True] * 3 + [False] * 3
    assert not module.networks["one"].head.training


def test_it_serves_those_that_compress(module):
    assert ProgressiveBlockDropping.serves(module)
    assert not ProgressiveBlockDropping.serves(SimpleNamespace(networks={}))
    assert load_callback("progressive_block_dropping") is ProgressiveBlockDropping
    assert "progressive_block_dropping" in callbacks()
