"""From a config to the splits of the data set it names."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import Flowers102

from lightning_vitc.data import cifar
from lightning_vitc.data.catalog import CATALOG, check_root
from lightning_vitc.data.classes import ClassNames
from lightning_vitc.data.folder import read_folder, read_with_unlabeled
from lightning_vitc.data.glyph_atlas import CHARACTERS
from lightning_vitc.data.glyphs import glyphs
from lightning_vitc.data.listed import SCENES, read_cub, read_indoor
from lightning_vitc.data.oxford import PETS, read_flowers, read_pets
from lightning_vitc.data.sources import ROLES, ArraySource, FakeSource, FileSource, Split, Splits
from lightning_vitc.data.subsets import any_subset, balanced_subset, hold_out
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.schema import DataConfig
from lightning_vitc.schema.split_names import HELD_OUT

_VAL_FRACTION = 0.1
_GLYPHS = {"train": 6000, "validation": 1500, "test": 2500}
_GLYPH_CLASSES = 36
_GLYPH_SIDE = (12, 32)  # smaller ones cannot be read; larger ones are cheaper to enlarge than to draw
_FAKE = {"train": 1024, "validation": 8, "test": 8}  # a dry run evaluates in seconds
_GENERATED = ("glyphs", "fake")  # of these, num_samples is the size and num_classes a choice

Size = tuple[int, int]


def _digits(*_: Any) -> Splits:
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    whole = Split.whole(ArraySource(images, targets))
    rest, test = hold_out(whole.targets, 0.2)
    train, validation = hold_out(whole.targets[rest], 0.125)  # 70 % and 10 % of the whole
    parts = [whole.take(rest[train]), whole.take(rest[validation]), whole.take(test)]
    return _gray(parts, _numbered(10), side=8)


def _glyphs(config: DataConfig, size: Size, *_: Any) -> Splits:
    num_classes = config.num_classes or _GLYPH_CLASSES
    if num_classes > len(CHARACTERS):
        raise UserError(f"data.num_classes: glyphs has {len(CHARACTERS)} classes at most, not {num_classes}")
    side = min(max(min(size), _GLYPH_SIDE[0]), _GLYPH_SIDE[1])
    parts = []
    for split, count in (_GLYPHS | _generated_size(config)).items():
        images, targets = glyphs(split, count, side, num_classes)
        parts.append(Split.whole(ArraySource(images, targets.numpy())))
    return _gray(parts, tuple(CHARACTERS[:num_classes]), side=side)


def _gray(parts: list[Split], classes: tuple[str, ...], side: int) -> Splits:
    train, validation, test = parts
    return Splits(train, validation, test, classes, native_size=side, channels=1, mean=(0.5,), std=(0.5,))


def _fake(config: DataConfig, size: Size, *_: Any) -> Splits:
    num_classes = config.num_classes or 1000
    counts = (_FAKE | _generated_size(config)).values()
    train, validation, test = (
        Split.whole(FakeSource(split, count, num_classes, size)) for split, count in enumerate(counts)
    )
    return Splits(train, validation, test, _numbered(num_classes))


def _numbered(num_classes: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(map(str, range(num_classes)))


def _generated_size(config: DataConfig) -> dict[str, int]:
    """The training images that are asked for; a few-shot subset is drawn from the default number."""
    return {} if config.num_samples is None or config.few_shot else {"train": config.num_samples}


def _folder(config: DataConfig, _: Size, known: ClassNames | None, only: str | None) -> Splits:
    if config.unlabeled is not None:
        return read_with_unlabeled(_root(config), Path(config.unlabeled).absolute(), known, only)
    return read_folder(_root(config), config.val_fraction, known, only)


def _cifar(config: DataConfig, *_: Any) -> Splits:
    num_classes = 10 if config.name == "cifar10" else 100
    train, validation = _held_out(config, Split.whole(cifar.read_cifar(_root(config), num_classes, "train")))
    test = Split.whole(cifar.read_cifar(_root(config), num_classes, "test"))
    classes = tuple(cifar.CLASSES[num_classes].split())
    return Splits(
        train, validation, test, classes, native_size=32, mean=cifar.MEAN, std=cifar.STD, selected_on=HELD_OUT
    )


def _flowers(config: DataConfig, *_: Any) -> Splits:
    train, validation, test = (read_flowers(_root(config), split) for split in ("train", "validation", "test"))
    return Splits(train, validation, test, tuple(Flowers102.classes))


def _pets(config: DataConfig, *_: Any) -> Splits:
    train, validation = _held_out(config, read_pets(_root(config), "trainval"))
    return Splits(train, validation, read_pets(_root(config), "test"), tuple(PETS.split()), selected_on=HELD_OUT)


def _cub(config: DataConfig, *_: Any) -> Splits:
    training, test, classes = read_cub(_root(config))
    train, validation = _held_out(config, training)
    return Splits(train, validation, test, classes, selected_on=HELD_OUT)


def _indoor(config: DataConfig, *_: Any) -> Splits:
    training, test = (read_indoor(_root(config), listing) for listing in ("TrainImages", "TestImages"))
    train, validation = _held_out(config, training)
    return Splits(train, validation, test, tuple(SCENES.split()), selected_on=HELD_OUT)


def _held_out(config: DataConfig, train: Split) -> tuple[Split, Split]:
    """Training and validation, of a training set that comes without the latter."""
    rest, held = hold_out(train.targets, config.val_fraction or _VAL_FRACTION)
    return train.take(rest), train.take(held)


_READERS: dict[str, Callable[[DataConfig, Size, ClassNames | None, str | None], Splits]] = {
    "digits": _digits,
    "glyphs": _glyphs,
    "fake": _fake,
    "folder": _folder,
    "imagenet": _folder,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "flowers102": _flowers,
    "pets": _pets,
    "cub200": _cub,
    "indoor67": _indoor,
}


def _root(config: DataConfig) -> Path:
    assert config.root is not None  # check_root
    return Path(config.root)


def _warn_ignored(config: DataConfig) -> None:
    if config.root is not None and not CATALOG[config.name].layout:
        warnings.warn(f"data.root is ignored: {config.name} has no files", stacklevel=3)
    if config.val_fraction is not None and config.name in ("digits", "glyphs", "fake", "flowers102"):
        warnings.warn(f"data.val_fraction is ignored: {config.name} has a validation split", stacklevel=3)


def _subset(config: DataConfig, train: Split, seed: int) -> Split:
    """The `num_samples` training images of a config, drawn by the run's seed if `few_shot` is set."""
    if config.num_samples is None or (config.name in _GENERATED and not config.few_shot):
        return train
    if config.num_samples > len(train):
        raise UserError(
            f"data.num_samples: {config.name} has {counted(len(train), 'training image')}; not {config.num_samples:,}"
        )
    if config.few_shot and not config.balanced:
        return train.take(any_subset(len(train), config.num_samples, seed))
    return train.take(balanced_subset(train.targets, config.num_samples, seed if config.few_shot else 0))


def _in_order(splits: Splits, known: ClassNames, name: str) -> Splits:
    """The same images with the numbers that known classes have; of a folder tree, which was read so, as they are."""
    if splits.classes == known.names:
        return splits
    known.check(splits.classes, f"data.name={name}", kind="class")
    number = {name: index for index, name in enumerate(known.names)}
    numbers = np.array([number[name] for name in splits.classes])
    sources = {id(split.source): split.source for split in (splits.train, splits.validation, splits.test)}
    for source in sources.values():
        source.targets = numbers[source.targets]
    return replace(splits, classes=known.names)


def build_splits(
    config: DataConfig, size: Size, seed: int, known: ClassNames | None = None, only: str | None = None
) -> Splits:
    """Reads the data set.

    Args:
        config: The `data` section.
        size: The model's (height, width).
        seed: The run's, for few-shot subsets.
        known: The classes it must have, and their order.
        only: The one of `ROLES` that is wanted; others may be empty.

    Raises UserError for whatever is missing or contradictory.
    """
    partial = known is not None and known.partial
    check_root(config, evaluated=partial)
    _warn_ignored(config)
    if config.few_shot and config.num_samples is None:
        raise UserError("data.num_samples: is needed with data.few_shot=true")
    splits = _READERS[config.name](config, size, known, only)
    for split in (splits.train, splits.validation, splits.test):
        if isinstance(split.source, FileSource):
            split.source.exif = config.exif
    if config.num_classes not in (None, splits.num_classes):
        raise UserError(
            f"data.num_classes: {config.name} has {counted(splits.num_classes, 'class')} here; leave the key out"
        )
    if known is not None:
        splits = _in_order(splits, known, config.name)
    if only is not None:
        return splits
    for name in () if partial else ROLES:
        if not len(getattr(splits, name)):
            raise UserError(f"data.root: the {name} split of {config.name} has no images")
    few = partial and config.num_samples is not None and len(splits.train) < config.num_samples
    return splits if few else replace(splits, train=_subset(config, splits.train, seed))
