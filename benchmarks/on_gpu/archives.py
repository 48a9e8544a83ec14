"""The data that `--data` names, unpacked once; CIFAR-10 as its binary version, which stays in memory."""

import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from on_gpu.children import Skip
from on_gpu.place import Place
from on_gpu.processes import die_with

CIFAR, CALTECH = "cifar10-jpeg.tar.xz", "caltech101-112px.tar.xz"
WEIGHTS = "vit_small_patch14_dinov2_saliency.safetensors"
BINARY = "cifar-10-batches-bin"
FILES, SIDE, CHUNK = 5, 32, 500  # of the binary version; images that a process decodes at a time


def archive(place: Place, name: str) -> Path:
    """A file of `--data`.

    Raises:
        Skip: where it is not there.
    """
    if place.data is None or not (place.data / name).is_file():
        raise Skip(f"needs {name} in --data")
    return place.data / name


def cifar_root(place: Place) -> Path:
    """`data.root` of `cifar10`, once it is there."""
    return place.scratch / "data" / "cifar10"


def caltech_root(place: Place) -> Path:
    """`data.root` of `folder`, once it is there."""
    return place.scratch / "data" / "caltech" / "caltech101"


def caltech(place: Place) -> dict[str, Any]:
    """Unpack the photographs."""
    began, source = time.monotonic(), archive(place, CALTECH)
    with _whole(caltech_root(place).parent) as folder, tarfile.open(source) as tar:
        tar.extractall(folder, filter="data")
    images = sum(len(files) for _, _, files in os.walk(caltech_root(place)))
    return {"images": images, "seconds": round(time.monotonic() - began, 1)}


def cifar(place: Place) -> dict[str, Any]:
    """Decode all images by all cores, straight out of the archive."""
    began, source = time.monotonic(), archive(place, CIFAR)
    with tarfile.open(source) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    read = time.monotonic()
    classes = sorted({name.split("/")[-2] for name in files})
    counts = {}
    with (
        _whole(cifar_root(place)) as folder,
        ProcessPoolExecutor(place.cores, get_context("fork"), die_with, (os.getpid(),)) as pool,
    ):
        (folder / BINARY).mkdir()
        for split in ("train", "test"):
            named = [(classes.index(name.split("/")[-2]), data) for name, data in sorted(files.items())
                     if name.split("/")[-3] == split]  # fmt: skip
            records = b"".join(pool.map(_records, _chunks(named)))
            counts[split] = len(named)
            _write(folder / BINARY, split, np.frombuffer(records, np.uint8).reshape(len(named), -1))
    return {**counts, "seconds": round(time.monotonic() - began, 1), "unpacking": round(read - began, 1)}


def _chunks(named: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    for first in range(0, len(named), CHUNK):
        yield named[first : first + CHUNK]


def _records(named: list[tuple[int, bytes]]) -> bytes:
    """The label's byte and the planes of every image, one after another."""
    found = []
    for label, data in named:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        if pixels.shape[:2] != (SIDE, SIDE):
            raise ValueError(f"an image of CIFAR-10 has {pixels.shape[:2]} pixels")
        found.append(bytes([label]) + pixels.transpose(2, 0, 1).tobytes())
    return b"".join(found)


def _write(folder: Path, split: str, records: np.ndarray) -> None:
    if split == "test":
        (folder / "test_batch.bin").write_bytes(records.tobytes())
        return
    order = np.random.default_rng(0).permutation(len(records))
    for number, part in enumerate(np.array_split(order, FILES), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(records[part].tobytes())


class _whole:  # noqa: N801  used as a function is
    """A folder that is there once it is complete."""

    def __init__(self, target: Path):
        self.target, self.folder = target, target.with_name(f".{target.name}.tmp")

    def __enter__(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self.folder

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            shutil.rmtree(self.target, ignore_errors=True)
            self.folder.rename(self.target)
