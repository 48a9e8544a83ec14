"""What an image becomes: size, channels, normalization, augmentation as a pure function of its key."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from lightning_vitc.data import batches
from lightning_vitc.data.batches import TensorBatches, TransformedBatches
from lightning_vitc.data.sources import ArraySource, Split, Splits
from lightning_vitc.data.transforms import is_augmented, training_transform
from lightning_vitc.errors import UserError
from lightning_vitc.images.preprocessing import ImageSpec, evaluation_transform
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
    first = TransformedBatches(split, transform, seed=1)

    def one(index: int, epoch: int, dataset: TransformedBatches = first) -> torch.Tensor:
        return dataset.__getitems__([(index, epoch)]).images[0]

    together = first.__getitems__([(0, 0), (5, 0), (0, 1)]).images
    assert together.shape == (3, channels, 32, 32)
    assert torch.equal(together[0], one(0, 0))
    assert torch.equal(together[1], one(5, 0))
    assert torch.equal(together[2], one(0, 1))
    assert not torch.equal(together[0], together[2])
    assert not torch.equal(one(0, 0), one(0, 0, TransformedBatches(split, transform, seed=2)))


def test_an_image_is_drawn_by_seed_epoch_index_and_repeat(monkeypatch):
    seen = []
    monkeypatch.setattr(batches, "seed_transforms", lambda *key: seen.append(key))
    images = TransformedBatches(Split.whole(_source()), evaluation_transform(_spec()), seed=9)
    images.__getitems__([(1, 4), (0, 4, 2)])
    assert seen == [(9, 4, 1), (9, 4, 0, 2)]


def test_every_key_of_augmentation_reaches_timm():
    keys = dict(scale=[0.3, 0.9], ratio=[0.5, 2.0], hflip=0.25, color_jitter=0.4, re_prob=0.5, auto_augment="")
    stages = training_transform(DataConfig(name="cifar10", **keys), _spec()).transforms
    parts = {type(part).__name__: part for stage in stages for part in stage.transforms}
    crop, erasing = parts["RandomResizedCropAndInterpolation"], parts["RandomErasing"]
    assert (crop.scale, crop.ratio) == ((0.3, 0.9), (0.5, 2.0))
    assert parts["RandomHorizontalFlip"].p == 0.25
    assert parts["ColorJitter"].contrast == pytest.approx((0.6, 1.4))
    assert (erasing.probability, erasing.per_pixel) == (0.5, True)  # noise, as in DeiT, and not black


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
    model |= dict(crop_mode="squash")
    assert vision_data("fake", model).spec == ImageSpec((32, 32), 3, *model.values())
    config = dict(mean=[0.1], std=[0.3], interpolation="nearest", crop_pct=0.8, crop_mode="border")
    spec = vision_data("fake", model, **config).spec
    assert spec == ImageSpec((32, 32), 3, (0.1,) * 3, (0.3,) * 3, "nearest", 0.8, "border")
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
        "crop_mode": "center",
        "exif": False,
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
    for key, values in (("std", [0.0]), ("std", [58.0]), ("mean", [123.675]), ("mean", [-0.1])):
        with pytest.raises(UserError, match=rf"^data.{key}: .* cannot be of images in 0..1; divide it by 255$"):
            vision_data("fake", **{key: values}).setup()
    with pytest.raises(UserError, match=r"^data.mean: .* cannot be of images in 0..1"):
        vision_data("fake", dict(mean=(123.675, 116.28, 103.53))).setup()  # the model's
    assert vision_data("fake", mean=[0.0], std=[1.0]).spec.std == (1.0, 1.0, 1.0)


MODELS = {  # of each of timm's ways to crop, and of none of the sizes of the images below
    "center": dict(crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
    "squash": dict(crop_pct=0.95, interpolation="bilinear", mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)),
    "border": dict(crop_pct=1.0, interpolation="bicubic", mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)),
}


@pytest.mark.parametrize("size", [(24, 24), (16, 24)])
@pytest.mark.parametrize("crop_mode", MODELS)
def test_evaluation_equals_timms_for_every_way_to_crop(vision_data, tree, crop_mode, size):
    Image.effect_noise((90, 20), 80).convert("RGB").save(tree / "test" / "cat" / "wide.png")
    model = MODELS[crop_mode] | dict(crop_mode=crop_mode)
    data = vision_data("folder", model, root=str(tree), img_size=size)
    expected = create_transform(**resolve_data_config({"input_size": (3, *size)}, pretrained_cfg=model))
    source = data.splits.test.source
    images = [expected(Image.open(source.path(row)).convert("RGB")) for row in range(len(data.splits.test))]
    assert torch.equal(data.images_of("test"), torch.stack(images))


@pytest.mark.parametrize("crop_mode", MODELS)
def test_small_images_of_another_shape_are_cropped_as_timm_does(vision_data, crop_mode):
    """A square model sees them whole; one that is not square cuts, stretches or pads them."""
    model = MODELS[crop_mode] | dict(crop_mode=crop_mode)
    data = vision_data("digits", model, img_size=(16, 24))
    expected = evaluation_transform(data.spec)
    source, rows = data.splits.test.source, data.splits.test.indices[:5]
    images = torch.stack([expected(source.load(int(row))) for row in rows])
    tolerance = 3 / 255 / 0.26 if crop_mode == "squash" else 0  # the fast path's resize
    assert (next(iter(data.test_dataloader()))[0][:5] - images).abs().max() <= tolerance


def test_repeats_are_augmented_apart(vision_data):
    data = vision_data("fake", img_size=16, batch_size=6, num_samples=12, repeated_aug=True, seed=3)
    images, targets = next(iter(data.train_dataloader()))
    assert targets.tolist() == [targets[0]] * 3 + [targets[3]] * 3
    assert len({image.numpy().tobytes() for image in images}) == 6
    again = next(iter(vision_data("fake", img_size=16, batch_size=6, num_samples=12, repeated_aug=True, seed=3)
                      .train_dataloader()))  # fmt: skip
    assert torch.equal(images, again[0])


def test_switch_prob_is_that_of_the_config(vision_data):
    assert vision_data("fake", mixup=0.8, cutmix=1.0, switch_prob=0.25).mixer.switch_prob == 0.25
    assert vision_data("fake", mixup=0.8, cutmix=1.0).mixer.switch_prob == 0.5
