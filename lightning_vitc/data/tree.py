"""Which folders of a tree are classes, and which files are images: one answer for all who count. Imports no torch.

Hidden folders and files (`.cache`, `._cat.jpg`) are none, at any depth. Links are followed, but no folder is entered
twice, nor one from within itself.
"""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lightning_vitc.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(folder: Path) -> list[str]:
    """The class folders as torchvision's ImageFolder orders them: `sorted`, so class 10 before class 2."""
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    if not names:
        raise UserError(f"data.root: {folder} has no class folders; expected {folder}/CLASS/image.jpg")
    for name in names:
        if "\n" in name or "\r" in name:  # names are kept one a line
            raise UserError(f"data.root: {folder} has the class folder {name!r}, a name of two lines; rename it")
    return sorted(names)


def count_classes(folder: Path) -> int:
    """The number of class folders, each of which must have an image."""
    names = class_folders(folder)
    for name in names:
        if not _has_images(folder / name):
            raise _no_images(f"data.root: the class folder {folder / name}")
    return len(names)


def holding_images(folder: Path, count: int = 2) -> list[str]:
    """The first folders within this one that have images at any depth; no more than so many are looked for."""
    inner = (entry.name for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if entry.is_dir())
    found = (name for name in inner if not name.startswith(".") and _has_images(folder / name))
    return list(islice(found, count))


def image_files(folder: Path, ignored: Counter[str], what: str = "data.root: the class folder") -> list[str]:
    """The image files below a folder, as sorted paths relative to its parent.

    Args:
        folder: where to look.
        ignored: counts the other files by their suffix.
        what: the folder is in a message.

    Raises:
        UserError: where there is none.
    """
    names = []
    for parent, files in _walk(folder):
        relative = os.path.relpath(parent, folder.parent)
        names += [f"{relative}/{file}" for file in files if _is_image(file)]
        ignored.update(suffix_of(file) for file in files if not _is_image(file))
    if not names:
        raise _no_images(f"{what} {folder}")
    return sorted(names)


def files_beside_classes(folder: Path) -> int:
    """Files that lie in the folder of a split itself, and therefore have no class."""
    return sum(not entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(folder))


def suffix_of(file: str) -> str:
    """What a kind of ignored files is called."""
    return Path(file).suffix.lower() or "without a suffix"


def _is_image(file: str) -> bool:
    return file.lower().endswith(EXTENSIONS) and not file.startswith(".")


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:  # which are read as they are asked for: the first one is most often an image
        if any(_is_image(entry.name) for entry in entries if not entry.is_dir()):
            return True
    return any(_is_image(file) for _, files in _walk(folder) for file in files)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder at and below this one, with its files."""
    entered = {_identity(place) for place in (folder, *folder.absolute().parents, *folder.resolve().parents)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        visible = []
        for name in sorted(folders):
            identity = _identity(Path(parent, name))
            if not name.startswith(".") and identity not in entered:
                entered.add(identity)
                visible.append(name)
        folders[:] = visible
        yield parent, [file for file in files if not file.startswith(".")]


def _identity(place: Path) -> tuple[int, int]:
    status = place.stat()
    return status.st_dev, status.st_ino


def _no_images(what: str) -> UserError:
    return UserError(f"{what} has no images ({' '.join(EXTENSIONS)})")
