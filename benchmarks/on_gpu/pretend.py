"""Random archives in the layout of the real ones, for a run of the whole script in two minutes."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from on_gpu.archives import CALTECH, CIFAR, WEIGHTS
from on_gpu.place import Place

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = dict(img_size=56, embed_dim=128, depth=4, num_heads=2, num_classes=0)


def pretended(place: Place) -> Path:
    """Where they are, once they are made."""
    return place.scratch / "pretended"


def archives(place: Place) -> dict[str, Any]:
    """Write them."""
    folder, random = pretended(place), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    cifar = [f"{split}/{name}/{number:04}.jpg" for split, count in (("train", 16), ("test", 4))
             for name in CIFAR_CLASSES for number in range(count)]  # fmt: skip
    photographs = [f"caltech101/{split}/{name}/image_{number:04}.jpg" for split, count in (("train", 12), ("test", 4))
                   for name in ("Faces", "anchor", "ant") for number in range(count)]  # fmt: skip
    _archive(folder / CIFAR, cifar, (32, 32), random)
    _archive(folder / CALTECH, photographs, (112, 140), random)
    _weights(folder / WEIGHTS)
    return {}


def _archive(path: Path, names: Iterable[str], shape: tuple[int, int], random: np.random.Generator) -> None:
    with tarfile.open(path, "w:xz", preset=0) as tar:
        for name in names:
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 255, (*shape, 3), dtype=np.uint8)).save(file, "JPEG")
            member = tarfile.TarInfo(name)
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)


def _weights(path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("vit_small_patch14_dinov2", **SHAPE)
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, path)
