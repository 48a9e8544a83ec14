"""Augmentation policies of the recipes: what they do where timm and Pillow disagree, and that none fails."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment, create_transform
from torchvision.transforms import Compose

from lightning_vitc.config import load_experiment
from lightning_vitc.data.batches import TransformedBatches
from lightning_vitc.data.policies import complete, posterized
from lightning_vitc.data.seeding import seed_transforms
from lightning_vitc.data.sources import ArraySource, Split
from lightning_vitc.data.transforms import training_transform
from lightning_vitc.images.preprocessing import ImageSpec, Transform
from lightning_vitc.schema import DataConfig

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[2] / "experiments").glob("*.yaml"))
AUGMENTED = ("color_jitter", "auto_augment")  # what is done to an image of 8 bits; the rest is done to tensors


def _image(side: int = 12) -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (side, side, 3)).astype(np.uint8))


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(-4, [0] * 4), (0, [0] * 4), (1, [0, 0, 128, 128]), (4, [0, 112, 128, 240]), (9, [1, 127, 128, 255])],
)
def test_posterize(bits, expected):
    image = Image.fromarray(np.array([[1, 127, 128, 255]], dtype=np.uint8)).convert("RGB")
    assert np.asarray(posterized(image, bits))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("name", sorted(auto_augment.NAME_TO_OP))
def test_every_operation_takes_every_magnitude(name):
    hparams = {"translate_const": 5, "img_mean": (124, 116, 104), "magnitude_max": 30}
    for magnitude in (*range(11), 20, 30):
        policy = auto_augment.RandAugment([auto_augment.AugmentOp(name, 1.0, magnitude, hparams)], 1)
        complete(Compose([policy]))
        for _ in range(4):  # of both signs
            assert policy(_image()).size == (12, 12)


def _posterize_of_pillow_12(image: Image.Image, bits: int) -> Image.Image:
    """Without a check of the bits."""
    mask = ~(2 ** (8 - bits) - 1)
    return image.point([level & mask for level in range(256)] * 3)


@pytest.mark.parametrize("policy", ["rand-m10-n4-mstd0.5-inc1", "augmix-m10", "v0", "original", "3a"])
def test_policies_do_what_timms_do_with_an_older_pillow(policy, monkeypatch):
    config = DataConfig(name="folder", auto_augment=policy, scale=[0.5, 1.0])
    statistics = dict(mean=(0.5,) * 3, std=(0.25,) * 3)
    ours = training_transform(config, ImageSpec((12, 12), 3, **statistics))
    theirs = create_transform(
        12,
        is_training=True,
        auto_augment=policy,
        scale=(0.5, 1.0),
        interpolation="bicubic",
        color_jitter=None,
        **statistics,
    )
    images = [_drawn(ours, number) for number in range(200)]
    monkeypatch.setattr(ImageOps, "posterize", _posterize_of_pillow_12)
    assert all(torch.equal(image, _drawn(theirs, number)) for number, image in enumerate(images))


def _drawn(transform: Transform, number: int) -> torch.Tensor:
    seed_transforms(number)
    return transform(_image())


def _augmentations() -> dict[str, list]:
    """The recipes of every distinct augmentation that shapes training images at random."""
    found: dict[str, list] = {}
    for name in EXPERIMENTS:
        data = load_experiment(name, check_files=False).data
        if not data.no_aug:
            found.setdefault(str([getattr(data, key) for key in AUGMENTED]), []).append((name, data))
    return found


@pytest.mark.slow
def test_no_augmentation_of_a_recipe_fails_on_20000_images():
    """About 2,500 draws of every operation, each of which takes every magnitude, as is shown above."""
    pixels = torch.from_numpy(np.array(_image())).permute(2, 0, 1)[None]
    split = Split.whole(ArraySource(pixels, np.zeros(1)))
    for (name, data), *_ in _augmentations().values():
        transform = training_transform(data, ImageSpec((8, 8), 3, (0.5,) * 3, (0.25,) * 3))
        batches = TransformedBatches(split, transform, seed=0)
        for first in range(0, 20_000, 500):
            fetched = batches.__getitems__([(0, epoch) for epoch in range(first, first + 500)])
            assert fetched.error == "", name
            assert fetched.images.isfinite().all(), name
