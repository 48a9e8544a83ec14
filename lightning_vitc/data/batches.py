"""Data sets that return whole batches for keys (index, epoch).

Every image is a pure function of its key and the run's seed: of no other image, worker or process.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lightning_vitc.data.seeding import preserved_rng, seed_transforms
from lightning_vitc.data.sources import ArraySource, Split
from lightning_vitc.images.decoding import UnusableImageError
from lightning_vitc.images.preprocessing import ImageSpec, Transform

Key = tuple[int, ...]
"""(index, epoch) or (index, epoch, repeat): which image of the split, and to what its augmentation belongs."""
OnUnusable = Literal["raise", "replace", "leave_out"]


class Fetched(NamedTuple):
    """A batch as it leaves a worker: images float32 [B, C, H, W], targets int64 [B].

    `unusable` are paths of images that were replaced or left out; both are None where no image was left. `error` is
    set where an image may not be missed: an exception would arrive in the main process wrapped into a traceback.
    """

    images: Tensor | None
    targets: Tensor | None
    unusable: tuple[str, ...] = ()
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
        rows = self._rows[[key[0] for key in keys]]
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

    With a `seed`, each is transformed with the generators seeded by it and the key, and the
    process's own random streams are left as they were; without one the transform must not be random.
    An image that cannot be decoded or transformed is an error, unless `on_unusable` is to `replace` it by the next
    one that can, or to `leave_out` it: then it is in no batch.
    """

    def __init__(
        self, split: Split, transform: Transform, *, seed: int | None = None, on_unusable: OnUnusable = "raise"
    ) -> None:
        self._split = split
        self._transform = transform
        self._seed = seed
        self._on_unusable = on_unusable

    def __len__(self) -> int:
        return len(self._split)

    def __getitems__(self, keys: list[Key]) -> Fetched:
        """The batch of some keys."""
        try:
            if self._seed is None:
                return self._fetch(keys)
            with preserved_rng():
                return self._fetch(keys)
        except UnusableImageError as error:
            return Fetched(None, None, error=str(error))

    def _fetch(self, keys: list[Key]) -> Fetched:
        unusable: list[str] = []
        found = [image for key in keys if (image := self._usable(key, unusable)) is not None]
        if not found:
            return Fetched(None, None, tuple(unusable))
        images, rows = zip(*found, strict=True)
        targets = torch.from_numpy(self._split.source.targets[list(rows)])
        return Fetched(torch.stack(images), targets, tuple(unusable))

    def _usable(self, key: Key, unusable: list[str]) -> tuple[Tensor, int] | None:
        """The image of a key and its place in the source, or of the next one where that is wanted."""
        for offset in range(len(self) if self._on_unusable == "replace" else 1):
            row = int(self._split.indices[(key[0] + offset) % len(self)])
            try:
                return self._transformed(row, key, offset), row
            except UnusableImageError as error:
                if self._on_unusable == "raise" or offset == len(self) - 1:
                    raise
                unusable.append(error.path)
        return None

    def _transformed(self, row: int, key: Key, offset: int) -> Tensor:
        image, path = self._split.source.load(row), self._split.source.path(row)
        if self._seed is not None:
            index, epoch, *repeat = key
            again = (offset,) if offset else ()  # or what failed by its random numbers would fail with them again
            seed_transforms(self._seed, epoch, index, *repeat, *again)
        try:
            return self._transform(image)
        except Exception as error:  # of Pillow, NumPy or torch
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnusableImageError(path, f"cannot transform the image {path} ({reason})", key="data") from None
