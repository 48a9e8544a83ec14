"""Where images come from: arrays in memory, files on a disk, a random stream; and splits of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_vitc.data.seeding import stream
from lightning_vitc.images.decoding import open_image
from lightning_vitc.schema.split_names import TEST, VALIDATION

ROLES = ("train", "validation", "test")  # of the splits of a data set


class Source(Protocol):
    """Images with their classes `targets`, int64 [N]."""

    targets: np.ndarray

    def load(self, index: int) -> Image.Image:
        """Image `index`, in RGB. Raises UnusableImageError."""
        ...

    def path(self, index: int) -> str:
        """What image `index` is called in a message: the path of its file where it has one."""
        ...


class ArraySource:
    """Images in memory: `images` uint8 [N, C, H, W], or float32 in 0..1, with C = 1 or 3."""

    def __init__(self, images: Tensor, targets: np.ndarray) -> None:
        assert images.dtype in (torch.uint8, torch.float32)
        assert len(images) == len(targets)
        self.images = images
        self.targets = np.asarray(targets, dtype=np.int64)

    def load(self, index: int) -> Image.Image:
        """Image `index`, in RGB with 256 levels."""
        image = self.images[index]
        if image.dtype != torch.uint8:
            image = (image * 255).round().to(torch.uint8)
        pixels = image.permute(1, 2, 0).numpy()  # [H, W, C]
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")

    def path(self, index: int) -> str:
        """Its number."""
        return f"number {index}"


class FileSource:
    """Image files `names` below `folder`, decoded when they are asked for; with `exif`, turned as it says."""

    exif = False

    def __init__(self, folder: Path, names: list[str], targets: np.ndarray) -> None:
        assert len(names) == len(targets)
        self.folder = folder
        # One array instead of a million strings: reference counts would copy these into every worker.
        self._names = np.array([os.fsencode(name) for name in names])
        self.targets = np.asarray(targets, dtype=np.int64)

    @property
    def names(self) -> Iterator[str]:
        """Paths of all images, relative to `folder`."""
        return (os.fsdecode(bytes(name)) for name in self._names)

    def path(self, index: int) -> str:
        """The path of image `index`."""
        return str(self.folder / os.fsdecode(bytes(self._names[index])))

    def load(self, index: int) -> Image.Image:
        """Image `index`, in RGB. Raises UnusableImageError with its path."""
        return open_image(self.path(index), self.exif)


class FakeSource:
    """Random RGB images of `size` (height, width): image `index` is a pure function of (split, index)."""

    def __init__(self, split: int, count: int, num_classes: int, size: tuple[int, int]) -> None:
        self._split = split
        self._size = size
        self.targets = np.arange(count, dtype=np.int64) % num_classes

    def load(self, index: int) -> Image.Image:
        """Image `index`."""
        pixels = stream("fake", self._split, index).bytes(self._size[0] * self._size[1] * 3)
        return Image.frombytes("RGB", self._size[::-1], pixels)

    def path(self, index: int) -> str:
        """Its number."""
        return f"number {index}"


@dataclass(frozen=True)
class Split:
    """Some images of a source: its positions `indices`, int64 [n], in ascending order."""

    source: Source
    indices: np.ndarray

    @classmethod
    def none_of(cls, folder: Path) -> "Split":
        """No images, of a folder that is not read or not there."""
        return cls.whole(FileSource(folder, [], np.zeros(0)))

    @classmethod
    def whole(cls, source: Source) -> "Split":
        """All images of a source."""
        return cls(source, np.arange(len(source.targets)))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def targets(self) -> np.ndarray:
        """Classes, int64 [n]."""
        return self.source.targets[self.indices]

    def take(self, positions: np.ndarray) -> "Split":
        """The images at these positions of this split."""
        return Split(self.source, self.indices[positions])


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Splits:
    """A data set: its splits and what is known about its images.

    `classes` are their names, that of class 0 first. `native_size` is the side of its square images, None where they
    differ. `mean` and `std` (one value per channel, of pixels in 0..1) serve where neither the config nor the model
    says anything. `selected_on` and `evaluated` are the true names of `validation` and `test` (`schema.split_names`):
    where a data set lacks one of them, others serve.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    native_size: int | None = None
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    selected_on: str = VALIDATION
    evaluated: str = TEST

    def name_of(self, split: str) -> str:
        """What `train`, `validation` or `test` truly is."""
        return {VALIDATION: self.selected_on, TEST: self.evaluated}.get(split, split)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)
