"""What an image becomes: size, channels, normalization, augmentation as a pure function of its key."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_vitc.data.batches import TensorBatches, TransformedBatches
from lightning_vitc.data.sources import ArraySource, Split, Splits
from lightning_vitc.data.transforms import ImageSpec, evaluation_transform, is_augmented, training_transform
from lightning_vitc.errors import UserError
from lightning_vitc.schema import DataConfig

AUGMENTED = dict(scale=[0.3, 1.0], hflip=0.5, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5, color_jitter=0.4)


def _spec(size: int = 32, channels: int = 3) -> ImageSpec:
    return ImageSpec((size, size), channels, (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels], crop_pct=1.0)


def _source(channels: int = 3, count: int = 12, size: int = 32) -> ArraySource:
    pixels = np.random.RandomState(0).randint(0, 256, (count, channels, size, size)).astype(np.uint8)
    return ArraySource(torch.from_numpy(pixels), np.arange(count) % 3)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_fast_path_equals_timms_transform(images, channels):
    split = Split.whole(_source(images))
    keys = [(index, 0) for index in (3, 1, 8)]
    fast = TensorBatches(split, _spec(channels=channels)).__getitems__(keys)
    slow = TransformedBatches(split, evaluation_transform(_spec(channels=channels))).__getitems__(keys)
    assert torch.equal(fast.images, slow.images)
    assert fast.targets.tolist() == slow.targets.tolist() == [0, 1, 2]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_fast_path_resizes_the_whole_image(interpolation):
    y, x = np.mgrid[:16, :16]
    source = ArraySource(torch.from_numpy((8 * y + 7 * x)[None, None].astype(np.uint8)), np.zeros(1))
    spec = ImageSpec((32, 32), 1, (0.0,), (1.0,), interpolation, 1.0)
    fast = TensorBatches(Split.whole(source), spec).__getitems__([(0, 0)]).images[0]
    assert (fast - evaluation_transform(spec)(source.load(0))).abs().max() < 3 / 255


def test_gray_model_sees_pillows_gray():
    source = _source(3)
    fast = TensorBatches(Split.whole(source), ImageSpec((32, 32), 1, (0.0,), (1.0,))).__getitems__([(2, 0)])
    expected = np.asarray(source.load(2).convert("L")) / np.float32(255)
    assert np.array_equal(fast.images[0, 0].numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmented_image_is_a_function_of_its_key(channels):
    split = Split.whole(_source())
    transform = training_transform(DataConfig(name="cifar10", **AUGMENTED), _spec(channels=channels))
    batches = TransformedBatches(split, transform, seed=1)

    def one(index: int, epoch: int, dataset: TransformedBatches = batches) -> torch.Tensor:
        return dataset.__getitems__([(index, epoch)]).images[0]

    together = batches.__getitems__([(0, 0), (5, 0), (0, 1)]).images
    assert together.shape == (3, channels, 32, 32)
    assert torch.equal(together[0], one(0, 0))
    assert torch.equal(together[1], one(5, 0))
    assert torch.equal(together[2], one(0, 1))
    assert not torch.equal(together[0], together[2])
    assert not torch.equal(one(0, 0), one(0, 0, TransformedBatches(split, transform, seed=2)))


def test_augmentation_leaves_the_global_streams_alone():
    transform = training_transform(DataConfig(name="cifar10", **AUGMENTED), _spec())
    batches = TransformedBatches(Split.whole(_source()), transform, seed=1)

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed() -> None:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)

    seed()
    expected = draw()
    seed()
    batches.__getitems__([(0, 0), (1, 0)])
    assert draw() == expected


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_loaders_leave_the_global_streams_alone(vision_data, name):
    data = vision_data(name, img_size=8, batch_size=128)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["digits", "fake", "folder"])
def test_workers_change_nothing(vision_data, name, tree):
    root = {"root": str(tree)} if name == "folder" else {}
    keys = dict(img_size=16, batch_size=10, num_samples=30, auto_augment="rand-m9-inc1", **root)
    alone = list(vision_data(name, **keys).train_dataloader())
    shared = list(vision_data(name, num_workers=2, **keys).train_dataloader())
    for (images, targets), (others, labels) in zip(alone, shared, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, labels)


def test_data_sets_can_be_sent_to_a_spawned_worker():
    split = Split.whole(_source())
    transform = training_transform(DataConfig(name="cifar10", **AUGMENTED), _spec(channels=1))
    for dataset in (TransformedBatches(split, transform, seed=1), TensorBatches(split, _spec())):
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(copy.__getitems__([(3, 1)]).images, dataset.__getitems__([(3, 1)]).images)


def _splits(native_size: int | None) -> Splits:
    split = Split.whole(_source())
    return Splits(split, split, split, ("a", "b", "c"), native_size)


@pytest.mark.parametrize(
    ("keys", "photographs", "expected"),
    [
        ({}, False, True),
        ({"no_aug": True}, False, False),
        ({"no_aug": True}, True, False),
        ({"scale": [1.0, 1.0], "hflip": 0.0}, False, False),
        ({"scale": [1.0, 1.0], "hflip": 0.0}, True, True),
        ({"scale": [1.0, 1.0], "hflip": 0.0, "re_prob": 0.1}, False, True),
        ({"scale": [1.0, 1.0], "hflip": 0.0, "color_jitter": 0.1}, False, True),
    ],
)
def test_when_images_are_augmented(keys, photographs, expected):
    assert is_augmented(DataConfig(name="cifar10", **keys), _splits(None if photographs else 32)) is expected


def test_fast_path_is_taken(vision_data):
    assert isinstance(vision_data("digits", no_aug=True).train_dataloader().dataset, TensorBatches)
    assert isinstance(vision_data("digits").train_dataloader().dataset, TransformedBatches)
    assert isinstance(vision_data("digits").test_dataloader().dataset, TensorBatches)
    assert isinstance(vision_data("digits", crop_pct=0.5).test_dataloader().dataset, TransformedBatches)


def test_config_wins_over_model_and_model_over_data_set(vision_data):
    model = dict(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), interpolation="bilinear", crop_pct=0.9)
    assert vision_data("fake").spec.mean == (0.485, 0.456, 0.406)
    assert vision_data("fake", model).spec == ImageSpec((32, 32), 3, *model.values())
    config = dict(mean=[0.1], std=[0.3], interpolation="nearest", crop_pct=0.8)
    spec = vision_data("fake", model, **config).spec
    assert spec == ImageSpec((32, 32), 3, (0.1,) * 3, (0.3,) * 3, "nearest", 0.8)
    assert vision_data("fake", model, interpolation="random").spec.interpolation == "bilinear"  # evaluation


def test_small_images_keep_their_rim_unless_the_config_says_otherwise(vision_data):
    model = dict(mean=(0.3, 0.4, 0.5), crop_pct=0.9)
    assert vision_data("digits").spec.mean == (0.5, 0.5, 0.5)
    assert vision_data("digits", model, in_chans=1).spec.mean == pytest.approx((0.4,))
    assert vision_data("digits", model).spec.crop_pct == 1.0
    assert vision_data("digits", model, crop_pct=0.5).spec.crop_pct == 0.5


def test_preprocessing_is_plain_data(vision_data):
    assert vision_data("digits", img_size=8, in_chans=1).preprocessing == {
        "input_size": [1, 8, 8],
        "mean": [0.5],
        "std": [0.5],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }


@pytest.mark.parametrize("name", ["digits", "fake"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, (16, 24)])
def test_shapes(vision_data, name, channels, size):
    data = vision_data(name, img_size=size, in_chans=channels, batch_size=4, num_samples=8)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, targets = next(iter(loader))
        assert images.shape == (4, channels, *((size, size) if isinstance(size, int) else size))
        assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)


def test_fake_images_are_functions_of_split_and_index(vision_data):
    few, many = vision_data("fake", num_samples=5).splits, vision_data("fake", num_samples=50).splits
    assert few.train.source.load(4) == many.train.source.load(4)
    assert few.train.source.load(4) != few.validation.source.load(4)
    assert few.train.source.load(4).size == (32, 32)


def test_aspect_is_kept(vision_data):
    wide = Image.new("RGB", (64, 32))
    wide.paste((255, 255, 255), (16, 0, 48, 32))  # the center square is white
    spec = ImageSpec((16, 16), 3, (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0)
    assert evaluation_transform(spec)(wide).mean() > 0.95
    assert training_transform(DataConfig(name="folder", no_aug=True), spec)(wide).mean() > 0.95


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"in_chans": 4}, "model.in_chans: images have 1 or 3 channels, not 4"),
        ({"scale": [0.5]}, "data.scale: must be [low, high] with 0 < low <= high <= 1, not [0.5]"),
        ({"ratio": [2.0, 1.0]}, "data.ratio: must be [low, high] with 0 < low <= high, not [2.0, 1.0]"),
        (
            {"auto_augment": "rand-x9"},
            "data.auto_augment: timm cannot read 'rand-x9' (Unknown RandAugment config section);"
            " a valid one is rand-m9-mstd0.5-inc1",
        ),
    ],
)
def test_messages(vision_data, keys, message):
    with pytest.raises(UserError) as error:
        vision_data("fake", **keys).train_dataloader()
    assert str(error.value) == message


def test_statistics_of_the_wrong_length(vision_data):
    with pytest.raises(UserError, match=r"^data.std: needs 3 values or one, not 2$"):
        vision_data("fake", std=[0.5, 0.5]).setup()
    with pytest.raises(UserError, match=r"^data.std: must be above zero, not 0.0$"):
        vision_data("fake", std=[0.0]).setup()
