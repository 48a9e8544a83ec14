"""Tiny data sets on disk, in the real formats, and data modules over them."""

import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_vitc.data import VisionData
from lightning_vitc.schema import DataConfig


@pytest.fixture
def vision_data() -> Callable[..., VisionData]:
    """`vision_data("digits", img_size=8, batch_size=32)`; `model` has what the model says of images."""

    def make(name: str, model: dict[str, Any] | None = None, **keys: Any) -> VisionData:
        own = {key: keys.pop(key) for key in ("img_size", "in_chans", "seed", "accumulate") if key in keys}
        return VisionData(DataConfig(name=name, **keys), **({"img_size": 32} | own | (model or {})))

    return make


def _image(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    random = np.random.RandomState(seed)
    return Image.fromarray(random.randint(0, 256, (*size, 3)).astype(np.uint8))


@pytest.fixture
def write_tree() -> Callable[[Path, dict[str, int]], None]:
    """`write_tree(folder, {"cat": 3, "dog": 2})` writes so many images into class folders."""

    def write(folder: Path, classes: dict[str, int]) -> None:
        for name, count in classes.items():
            (folder / name).mkdir(parents=True)
            for number in range(count):
                _image(zlib.crc32(name.encode()) % 1000 + number).save(folder / name / f"{name}_{number}.jpg")

    return write


@pytest.fixture
def tree(tmp_path: Path, write_tree: Callable[[Path, dict[str, int]], None]) -> Path:
    """A folder tree with train (20 + 10 images), val and test."""
    write_tree(tmp_path / "train", {"cat": 20, "dog": 10})
    write_tree(tmp_path / "val", {"cat": 4, "dog": 3})
    write_tree(tmp_path / "test", {"cat": 2, "dog": 3})
    return tmp_path


def _cifar_batch(seed: int, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    pixels = random.randint(0, 256, (count, 3072)).astype(np.uint8)
    return pixels, (np.arange(count) % num_classes).astype(np.uint8)


@pytest.fixture
def cifar(tmp_path: Path) -> Callable[[int, str], Path]:
    """`cifar(10, "binary")` or `cifar(100, "python")` writes the files of that version; returns the root."""

    def write(num_classes: int, version: str) -> Path:
        ten = num_classes == 10
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
        folder = {
            (True, "binary"): "cifar-10-batches-bin",
            (True, "python"): "cifar-10-batches-py",
            (False, "binary"): "cifar-100-binary",
            (False, "python"): "cifar-100-python",
        }[ten, version]
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(names):
            pixels, labels = _cifar_batch(seed, 20 if ten else 200, num_classes)
            if version == "binary":
                columns = [labels[:, None]] if ten else [labels[:, None] // 5, labels[:, None]]
                np.concatenate([*columns, pixels], axis=1).tofile(tmp_path / folder / f"{name}.bin")
            else:
                entry = {"data": pixels, "labels" if ten else "fine_labels": labels.tolist()}
                (tmp_path / folder / name).write_bytes(pickle.dumps(entry, protocol=2))
        return tmp_path

    return write


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """102 flowers: 12 images of 3 classes, in the order of the real `imagelabels.mat` and `setid.mat`."""
    from scipy.io import savemat

    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 13):
        _image(number).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[77, 77, 77, 77, 1, 1, 1, 1, 102, 102, 102, 102]])})
    splits = {"trnid": [[1, 5, 9]], "valid": [[10, 6, 2]], "tstid": [[3, 4, 7, 8, 11, 12]]}
    savemat(folder / "setid.mat", {name: np.array(ids, dtype=np.uint16) for name, ids in splits.items()})
    return tmp_path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Pets: 20 + 4 images of 2 of the 37 breeds."""
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, count in (("trainval", 20), ("test", 4)):
        lines = []
        for number in range(count):
            breed, label = [("Abyssinian", 1), ("yorkshire_terrier", 37)][number % 2]
            name = f"{breed}_{split}{number}"
            _image(number).save(folder / "images" / f"{name}.jpg")
            lines.append(f"{name} {label} {1 + number % 2} 1\n")
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """CUB-200-2011: 24 images of 2 of the 200 species, every third one of the test split."""
    folder = tmp_path / "CUB_200_2011"
    species = {1: "001.Black_footed_Albatross", 200: "200.Common_Yellowthroat"}
    images, labels, training = [], [], []
    for number in range(1, 25):
        label = (1, 200)[number % 2]
        name = f"{species[label]}/bird_{number}.jpg"
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        _image(number).save(folder / "images" / name)
        images.append(f"{number} {name}\n")
        labels.append(f"{number} {label}\n")
        training.append(f"{number} {int(number % 3 > 0)}\n")
    named = [f"{number} {species.get(number, f'{number:03d}.Bird')}\n" for number in range(1, 201)]
    lists = {"images": images, "image_class_labels": labels, "train_test_split": training, "classes": named}
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def indoor(tmp_path: Path) -> Path:
    """Indoor67: 20 + 4 images of 2 of the 67 scenes, one with a blank in its name."""
    for listing, count in (("TrainImages", 20), ("TestImages", 4)):
        lines = []
        for number in range(count):
            name = f"{('airport_inside', 'winecellar')[number % 2]}/{listing} {number}.jpg"
            (tmp_path / "Images" / name).parent.mkdir(parents=True, exist_ok=True)
            _image(number).save(tmp_path / "Images" / name)
            lines.append(f"{name}\n")
        (tmp_path / f"{listing}.txt").write_text("".join(lines).rstrip())  # as upstream's, without a last line end
    return tmp_path
