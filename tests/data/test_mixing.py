"""Mixup and CutMix: pure functions of a key, timm's arithmetic, odd batches."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from lightning_vitc.data.mixing import BatchMixer
from lightning_vitc.data.seeding import stream


def _batch(size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 3, 8, 8, generator=generator), torch.arange(size) % 5


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_distributions(size, mixup, cutmix):
    mixer = BatchMixer(5, mixup_alpha=mixup, cutmix_alpha=cutmix, smoothing=0.1)
    for step in range(20):
        images, targets = mixer(*_batch(size), 0, step, 0)
        assert images.shape == (size, 3, 8, 8)
        assert targets.shape == (size, 5)
        assert torch.allclose(targets.sum(1), torch.ones(size))
        assert targets.min() >= 0.1 / 5 - 1e-6


def test_equal_for_equal_keys_and_different_for_others():
    mixer = BatchMixer(5, mixup_alpha=0.8, cutmix_alpha=1.0, seed=3)
    first, again, slot, step = (mixer(*_batch(), *key) for key in ((1, 2, 0), (1, 2, 0), (1, 2, 1), (1, 3, 0)))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], slot[1])
    assert not torch.equal(first[1], step[1])
    other_seed = BatchMixer(5, mixup_alpha=0.8, cutmix_alpha=1.0, seed=4)(*_batch(), 1, 2, 0)
    assert not torch.equal(first[1], other_seed[1])


def test_the_global_streams_and_the_batch_are_left_alone():
    images, targets = _batch()
    state, copy = np.random.get_state()[1].copy(), images.clone()
    BatchMixer(5, mixup_alpha=0.8, cutmix_alpha=1.0)(images, targets, 0)
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(images, copy)


def test_cutmix_weights_are_the_areas():
    images = torch.zeros(4, 1, 8, 8)
    images[2:] = 1  # the mirror of the first two
    for step in range(30):
        mixed, targets = BatchMixer(2, cutmix_alpha=1.0)(images, torch.tensor([0, 0, 1, 1]), step)
        assert torch.allclose(mixed[0].mean(), targets[0, 1], atol=1e-6)
        assert torch.allclose(1 - mixed[3].mean(), targets[3, 0], atol=1e-6)


def test_mixup_weights_are_those_of_the_pixels():
    images = torch.zeros(3, 1, 2, 2)
    images[2] = 1
    mixed, targets = BatchMixer(2, mixup_alpha=1.0)(images, torch.tensor([0, 0, 1]), 0)
    assert torch.allclose(mixed[0].mean(), targets[0, 1])
    assert torch.equal(targets[1], torch.tensor([1.0, 0.0]))  # the middle mixes with itself
    assert 0 < targets[0, 1] < 1


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_same_arithmetic_as_timm(alphas, monkeypatch):
    """timm, made to draw from the same stream, gives the same batches."""
    images, targets = _batch(8)
    for step in range(10):
        random = stream("mixing", 0, step)
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "rand", random.random_sample)
            patch.setattr(np.random, "beta", random.beta)
            patch.setattr(np.random, "randint", random.randint)
            expected = Mixup(*alphas, label_smoothing=0.1, num_classes=5)(images.clone(), targets)
        mixed = BatchMixer(5, *alphas, smoothing=0.1)(images, targets, step)
        assert torch.allclose(mixed[0], expected[0])
        assert torch.allclose(mixed[1], expected[1])


def test_prob_and_switch_prob():
    images, targets = _batch(8)
    untouched = sum(
        torch.equal(BatchMixer(5, mixup_alpha=1.0, prob=0.3)(images, targets, step)[0], images) for step in range(200)
    )
    assert 110 < untouched < 170
    never = BatchMixer(5, mixup_alpha=1.0, prob=0.0)(images, targets, 0)
    assert torch.equal(never[0], images)
    assert torch.equal(never[1].argmax(1), targets)


def test_without_mixing():
    images, targets = _batch()
    assert BatchMixer(5)(images, targets, 0)[1] is targets
    smoothed = BatchMixer(5, smoothing=0.1)(images, targets, 0)
    assert smoothed[0] is images
    assert torch.allclose(smoothed[1].amax(1), torch.full((7,), 0.92))
    assert torch.allclose(smoothed[1].amin(1), torch.full((7,), 0.02))
