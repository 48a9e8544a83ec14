"""Data sets that return whole batches for keys (index, epoch).

Every image is a pure function of its key and the run's seed: of no other image, worker or process.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_vitc.data.seeding import preserved_rng, seed_transforms
from lightning_vitc.data.sources import ArraySource, Split, UnreadableImageError
from lightning_vitc.data.transforms import ImageSpec, Transform

Key = tuple[int, int]
"""(index, epoch): which image of the split, and the epoch its augmentation belongs to."""


class Fetched(NamedTuple):
    """A batch as it leaves a worker: images float32 [B, C, H, W], targets int64 [B].

    `unreadable` are paths of images that were replaced. `error` is set instead of images where there was
    nothing to replace one with: an exception would arrive in the main process wrapped into a traceback.
    """

    images: Tensor | None
    targets: Tensor | None
    unreadable: tuple[str, ...] = ()
    error: str = ""


class TensorBatches(Dataset[Fetched]):
    """Images in memory without augmentation: a batch is a look-up, a normalization and no loop."""

    def __init__(self, split: Split, spec: ImageSpec) -> None:
        assert isinstance(split.source, ArraySource)
        self._rows = torch.from_numpy(split.indices)
        self._images = _with_channels(split.source.images, spec.channels)
        self._targets = torch.from_numpy(split.source.targets)
        self._spec = spec
        self._mean = torch.tensor(spec.mean)[:, None, None]
        self._std = torch.tensor(spec.std)[:, None, None]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, keys: list[Key]) -> Fetched:
        """The batch of some keys."""
        rows = self._rows[[index for index, _ in keys]]
        images = self._images[rows]
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        if images.shape[-2:] != self._spec.size:
            images = _resize(images, self._spec)
        return Fetched((images - self._mean) / self._std, self._targets[rows])


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """Images [N, 1 or 3, H, W] with the channels of the model; gray repeats when it is normalized."""
    if images.shape[1] == 3 and channels == 1:  # the weights and the rounding of Pillow's convert("L")
        red, green, blue = images.int().unbind(1)
        return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)[:, None]
    return images


def _resize(images: Tensor, spec: ImageSpec) -> Tensor:
    """The whole image in the model's size: no crop."""
    if spec.interpolation == "nearest":
        return F.interpolate(images, spec.size, mode="nearest-exact")
    return F.interpolate(images, spec.size, mode=spec.interpolation, antialias=True).clamp_(0, 1)


class TransformedBatches(Dataset[Fetched]):
    """Images that go through a transform one by one.

    With a `seed`, each is transformed with the generators seeded by (seed, epoch, index), and the
    process's own random streams are left as they were; without one the transform must not be random.
    With `skip_unreadable`, an image that cannot be decoded is replaced by the next one that can.
    """

    def __init__(
        self, split: Split, transform: Transform, *, seed: int | None = None, skip_unreadable: bool = False
    ) -> None:
        self._split = split
        self._transform = transform
        self._seed = seed
        self._skip = skip_unreadable

    def __len__(self) -> int:
        return len(self._split)

    def __getitems__(self, keys: list[Key]) -> Fetched:
        """The batch of some keys."""
        try:
            if self._seed is None:
                return self._fetch(keys)
            with preserved_rng():
                return self._fetch(keys)
        except UnreadableImageError as error:
            return Fetched(None, None, error=str(error))

    def _fetch(self, keys: list[Key]) -> Fetched:
        images, rows = [], []
        unreadable: list[str] = []
        for index, epoch in keys:
            image, row = self._readable(index, unreadable)
            if self._seed is not None:
                seed_transforms(self._seed, epoch, index)
            images.append(self._transform(image))
            rows.append(row)
        targets = torch.from_numpy(self._split.source.targets[rows])
        return Fetched(torch.stack(images), targets, tuple(unreadable))

    def _readable(self, index: int, unreadable: list[str]) -> tuple[Image.Image, int]:
        """The image, or the next one that can be read, and its place in the source."""
        for offset in range(len(self)):
            row = int(self._split.indices[(index + offset) % len(self)])
            try:
                return self._split.source.load(row), row
            except UnreadableImageError as error:
                if not self._skip or offset == len(self) - 1:
                    raise
                unreadable.append(error.path)
        raise AssertionError("an empty split")
