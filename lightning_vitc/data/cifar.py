"""CIFAR-10 and CIFAR-100, from the binary or the Python version of the files.

The binary version is plain bytes and is preferred. The Python version is pickled: it is read by an
unpickler that can make arrays and nothing else, so a forged file cannot run code.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_vitc.data.sources import ArraySource
from lightning_vitc.errors import UserError

_PIXELS = 3 * 32 * 32
_TEN = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_HUNDRED = {"train": ["train"], "test": ["test"]}

CLASSES = {
    10: "airplane automobile bird cat deer dog frog horse ship truck",
    100: (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
        "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
        "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
        "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
        "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
        "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
        "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ),
}
"""By their numbers, as `batches.meta` and `meta` of the files name them."""

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles built-in values and NumPy arrays; refuses every other name."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not allowed in a CIFAR file")
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def _read_binary(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of the label bytes (CIFAR-100: coarse, fine) and the pixels; the last label byte counts."""
    label_bytes = 1 if num_classes == 10 else 2
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS)
    return records[:, label_bytes:], records[:, label_bytes - 1]


def _read_python(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file:
        entry = _ArraysOnly(file, encoding="latin1").load()
    return entry["data"], np.asarray(entry["labels" if num_classes == 10 else "fine_labels"])


def _read(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, 3072] and classes int64 [N] of one file."""
    try:
        reader = _read_binary if path.suffix == ".bin" else _read_python
        pixels, labels = reader(path, num_classes)
        pixels, labels = pixels.reshape(-1, _PIXELS), labels.astype(np.int64)
        valid = pixels.dtype == np.uint8 and 0 < len(pixels) == len(labels)
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"data.root: cannot read {path}: {error}") from None
    if not valid or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"data.root: {path} does not hold CIFAR-{num_classes} images and labels")
    return pixels, labels


def read_cifar(root: Path, num_classes: int, split: str) -> ArraySource:
    """The `train` or `test` images of CIFAR-10 or CIFAR-100: uint8 [N, 3, 32, 32].

    Raises UserError where a file is missing, cut short, or not what it should be.
    """
    names = (_TEN if num_classes == 10 else _HUNDRED)[split]
    binary = root / ("cifar-10-batches-bin" if num_classes == 10 else "cifar-100-binary")
    python = root / ("cifar-10-batches-py" if num_classes == 10 else "cifar-100-python")
    paths = [binary / f"{name}.bin" for name in names] if binary.is_dir() else [python / name for name in names]
    for path in paths:
        if not path.is_file():
            raise UserError(f"data.root: {path} is missing")
    parts = [_read(path, num_classes) for path in paths]
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts])).view(-1, 3, 32, 32)
    return ArraySource(images, np.concatenate([labels for _, labels in parts]))
