"""Several networks trained side by side: one pass of the original, and no trace of each other."""

import zlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_vitc.callbacks.progressive_block_dropping import ProgressiveBlockDropping
from lightning_vitc.few_shot.feature_matching import original_tokens, token_loss
from lightning_vitc.methods.dcvit import DCViT
from lightning_vitc.networks.dropped_attention import drop_attention
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.module import CompressionModule


class Counting(nn.Module):
    """Counts the passes of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.network(images)


class AfterBackward(Callback):
    """Notes gradients that should not be there, what the optimizer holds, and what noise was drawn from."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.seeds: list[int] = []

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        self.seeds.append(torch.initial_seed())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        for network in pl_module.networks.values():
            assert all(one.grad is None for one in network.parameters() if not one.requires_grad)
        held = [one for group in optimizer.param_groups for one in group["params"]]
        assert all(one.requires_grad for one in held)
        self.held.append(len(held))


@pytest.fixture
def fit(make_network, images, tmp_path):
    """Candidates of some blocks, after a few steps side by side; batches are images and nothing else."""

    def fit(*blocks: int, kind: str = "vit", clip: float | None = 0.01, accumulate: int = 1, **changes: Any) -> DCViT:
        network = make_network(kind, **changes)
        networks = {f"block_{block}": drop_attention(network, block, 30, seed=0, images=images) for block in blocks}
        module = DCViT(networks, OptimizerConfig(lr=1e-2), original_tokens(network))
        module.teacher.network = Counting(module.teacher.network)
        module.watch = AfterBackward()
        trainer = Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, gradient_clip_val=clip, default_root_dir=tmp_path,
            callbacks=[ProgressiveBlockDropping(), module.watch], accumulate_grad_batches=accumulate,
        )  # fmt: skip
        trainer.fit(module, DataLoader(images, batch_size=3))
        return module

    return fit


def test_one_pass_of_the_original_a_batch(fit):
    assert fit(1, 2).teacher.network.passes == fit(1).teacher.network.passes == 6


@pytest.mark.parametrize("kind", ["vit", "distilled", "deit3"])
def test_a_network_ends_the_same_whoever_is_beside_it(fit, kind):
    """Bit for bit: alone, with another, and in the other order; gradients are clipped, and blocks drop at random."""
    rates = {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}
    alone = [fit(block, kind=kind, **rates).networks[f"block_{block}"].state_dict() for block in (1, 2)]
    for order in ((1, 2), (2, 1)):
        together = fit(*order, kind=kind, **rates).networks
        for block, expected in zip((1, 2), alone, strict=True):
            own = together[f"block_{block}"].state_dict()
            assert all(torch.equal(own[name], value) for name, value in expected.items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_part_of_a_step_has_noise_of_its_own(fit, accumulate):
    seeds = fit(1, accumulate=accumulate).watch.seeds
    assert len(set(seeds)) == len(seeds) == 6


def test_what_is_frozen_stays_bit_for_bit(fit, make_network):
    """In a network of five blocks with block 1 compressed: blocks 3 and 4 and the classifier."""
    before, after = make_network("deit").state_dict(), fit(1, kind="deit").backbone.state_dict()
    frozen = {name for name in after if name.startswith(("blocks.3", "blocks.4", "head"))}
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in after.keys() - frozen if before[name].shape == after[name].shape]
    assert not any(torch.equal(before[name], after[name]) for name in moved)


def test_only_what_is_trained_is_in_the_optimizer(fit):
    module = fit(1, kind="deit")
    trained = sum(one.requires_grad for one in module.parameters())
    assert set(module.watch.held) == {trained}
    assert trained < len(list(module.parameters()))


def test_each_network_is_clipped_by_itself(fit):
    assert not torch.equal(fit(1, clip=None).backbone.norm.weight, fit(1).backbone.norm.weight)


def test_the_loss():
    tokens, wanted = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    torch.testing.assert_close(token_loss(tokens, wanted), (tokens - wanted).square().mean())
    torch.testing.assert_close(token_loss(tokens, wanted, "class"), (tokens - wanted)[:, 0].square().mean())


@pytest.fixture
def two(make_network, images):
    """Two candidates side by side, before any step."""
    network = make_network()
    networks = {f"block_{block}": drop_attention(network, block, 30, seed=0, images=images) for block in (1, 2)}
    return DCViT(networks, OptimizerConfig(lr=1e-2), original_tokens(network), seed=7)


def test_noise_is_drawn_by_network_seed_step_and_part(two, images, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "manual_seed", seen.append)
    two.accumulate, two._part = lambda loss: None, (1, 2)
    two.step(images, None)
    assert seen == [zlib.crc32(f"{name} 7 0 (1, 2)".encode()) for name in ("block_1", "block_2")]


def test_a_part_is_a_micro_batch_of_a_rank(two, images, monkeypatch):
    monkeypatch.setattr(CompressionModule, "training_step", lambda *_: None)
    two._trainer = SimpleNamespace(accumulate_grad_batches=2, global_rank=3)
    two.training_step(images, 5)
    assert two._part == (1, 3)


@pytest.mark.parametrize(("how", "size"), [("norm", lambda gradients: gradients.norm()), ("value", torch.max)])
def test_how_far_a_network_is_clipped(two, how, size):
    for number, network in enumerate(two.networks.values()):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 2.0 + number)
    two.configure_gradient_clipping(None, 0.5, how)
    for network in two.networks.values():
        gradients = torch.cat([one.grad.flatten() for one in network.parameters() if one.requires_grad])
        assert float(size(gradients)) == pytest.approx(0.5, rel=1e-4)


def test_what_timm_does_not_decay_is_not_decayed_in_any(two):
    assert {"backbone.pos_embed", "others.block_2.pos_embed"} <= two.no_weight_decay()
