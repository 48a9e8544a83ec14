"""Splits are disjoint, stratified and the same for every seed; subsets are balanced and drawn by seed."""

import numpy as np
import pytest
import torch

from lightning_vitc.data.subsets import balanced_subset, hold_out
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened

DIGITS = [17024, 108887, 53704]


def test_hold_out_is_disjoint_complete_and_stratified():
    targets = np.random.RandomState(0).randint(0, 5, 1000)
    rest, held = hold_out(targets, 0.2)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(1000))
    for label in range(5):
        assert (targets[held] == label).sum() == round(0.2 * (targets == label).sum())


def test_hold_out_leaves_something_of_every_class():
    rest, held = hold_out(np.array([0, 0, 1, 2, 2, 2]), 0.9)
    assert sorted(set(rest)) == list(rest)
    assert len(rest) == 3  # one of each class
    assert len(held) == 3
    rest, held = hold_out(np.array([0, 1, 2]), 0.5)
    assert len(held) == 0


def test_subset_is_as_balanced_as_the_classes_allow():
    targets = np.array([0] * 50 + [1] * 50 + [2] * 3)
    chosen = balanced_subset(targets, 32, seed=0)
    assert len(set(chosen)) == 32
    counts = np.bincount(targets[chosen])
    assert counts[2] == 3
    assert sorted(counts[:2]) == [14, 15]


def test_subset_is_a_function_of_the_seed():
    targets = np.arange(100) % 10
    assert np.array_equal(balanced_subset(targets, 20, 1), balanced_subset(targets, 20, 1))
    assert not np.array_equal(balanced_subset(targets, 20, 1), balanced_subset(targets, 20, 2))


def test_digits(vision_data):
    data = vision_data("digits", img_size=8, in_chans=1)
    parts = [getattr(data.splits, name) for name in ("train", "validation", "test")]
    assert data.sizes == {"train": 1259, "validation": 179, "test": 359}
    assert np.array_equal(np.sort(np.concatenate([part.indices for part in parts])), np.arange(1797))
    whole = np.bincount(parts[0].source.targets) / 1797
    for part in parts:
        assert np.abs(np.bincount(part.targets) / len(part) - whole).max() < 0.01
    # Written down: the split must never change, or numbers of different versions cannot be compared.
    assert [int(part.indices[:150].sum()) for part in parts] == DIGITS
    other = vision_data("digits", img_size=8, in_chans=1, seed=7)
    assert data.train_indices == other.train_indices


def test_few_shot_is_drawn_by_seed_and_balanced(vision_data, tmp_path):
    def draw(**keys):
        return vision_data("digits", img_size=8, in_chans=1, num_samples=50, **keys)

    data = draw(few_shot=True, seed=1)
    assert len(data.train_indices) == len(set(data.train_indices)) == 50
    assert set(np.bincount(data.splits.train.targets)) == {5}
    assert set(data.train_indices) <= set(vision_data("digits", img_size=8).train_indices)
    assert data.train_indices == draw(few_shot=True, seed=1).train_indices
    assert data.train_indices != draw(few_shot=True, seed=2).train_indices
    # Without few_shot the subset is part of the task: the same for every seed.
    assert draw(seed=1).train_indices == draw(seed=2).train_indices

    data.save_subset(tmp_path / "subset.json")
    saved = opened((tmp_path / "subset.json").read_bytes())
    assert saved == {"name": "digits", "num_samples": 50, "seed": 1, "indices": data.train_indices}


def test_few_shot_without_labels(vision_data, monkeypatch):
    """Drawn from all images alike: what their classes are does not matter."""

    def draw(seed: int) -> list[int]:
        keys = dict(img_size=8, in_chans=1, num_samples=50, few_shot=True, balanced=False)
        return vision_data("digits", seed=seed, **keys).train_indices

    first = draw(1)
    assert len(set(first)) == 50
    assert first == sorted(first) == draw(1)
    assert first != draw(2)
    monkeypatch.setattr("lightning_vitc.data.splits.balanced_subset", None)
    assert draw(1) == first


def test_images_of_a_split(vision_data):
    data = vision_data("digits", img_size=8, in_chans=1, num_samples=30, batch_size=16)
    images = data.images_of("train")
    assert torch.equal(images, torch.cat([batch for batch, _ in data.loader_of("train")]))
    assert images.shape == (30, 1, 8, 8)


def test_generated_data_sets_have_the_size_that_is_asked_for(vision_data):
    assert vision_data("fake", num_samples=37).sizes == {"train": 37, "validation": 8, "test": 8}
    assert vision_data("glyphs", img_size=16, num_samples=90).sizes["train"] == 90
    few = vision_data("fake", num_samples=40, few_shot=True, num_classes=10, seed=3)
    assert set(np.bincount(few.splits.train.targets)) == {4}
    assert max(few.train_indices) > 100  # drawn from the default number


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("digits", {"num_samples": 1260}, "data.num_samples: digits has 1,259 training images; not 1,260"),
        ("digits", {"few_shot": True}, "data.num_samples: is needed with data.few_shot=true"),
        ("digits", {"num_classes": 12}, "data.num_classes: digits has 10 classes here; leave the key out"),
        ("glyphs", {"num_classes": 99}, "data.num_classes: glyphs has 45 classes at most, not 99"),
    ],
)
def test_messages(vision_data, name, keys, message):
    with pytest.raises(UserError) as error:
        vision_data(name, img_size=8, in_chans=1, **keys).setup()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"root": "/data"}, "data.root is ignored: digits has no files"),
        ({"val_fraction": 0.2}, "data.val_fraction is ignored: digits has a validation split"),
    ],
)
def test_ignored_keys_are_told(vision_data, keys, message):
    with pytest.warns(UserWarning, match=message):
        vision_data("digits", img_size=8, in_chans=1, **keys).setup()
