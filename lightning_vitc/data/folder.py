"""Folder trees: `ROOT/train/CLASS/image.jpg` and so on; ImageNet is one of them."""

import os
import warnings
from pathlib import Path

import numpy as np

from lightning_vitc.data.catalog import EVALUATED
from lightning_vitc.data.classes import ClassNames
from lightning_vitc.data.sources import FileSource, Split, Splits
from lightning_vitc.data.subsets import hold_out
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


def _images(folder: Path, what: str = "data.root: the class folder") -> list[str]:
    """The image files below a folder, as sorted paths relative to its parent."""
    names = []
    for parent, _, files in os.walk(folder, followlinks=True):
        relative = os.path.relpath(parent, folder.parent)
        names += [f"{relative}/{file}" for file in files if file.lower().endswith(EXTENSIONS)]
    if not names:
        raise UserError(f"{what} {folder} has no images ({' '.join(EXTENSIONS)})")
    return sorted(names)


def _scan(folder: Path, classes: ClassNames) -> Split:
    """The images of a split, whose class folders are those that are known."""
    found = {*class_folders(folder)}
    classes.check(found, str(folder))
    numbers = [number for number, name in enumerate(classes.names) if name in found]
    files = [_images(folder / classes.names[number]) for number in numbers]
    targets = np.repeat(numbers, [len(names) for names in files])
    return Split.whole(FileSource(folder, [name for names in files for name in names], targets))


def read_with_unlabeled(root: Path, unlabeled: Path, known: ClassNames | None = None) -> Splits:
    """Training images from anywhere below a folder, of class 0 all of them; the other splits of a folder tree."""
    first, *others = [root / name for name in EVALUATED if (root / name).is_dir()]
    classes = known or ClassNames(tuple(class_folders(first)), str(first))
    files = _images(unlabeled, "data.unlabeled:") if unlabeled.is_dir() else []
    train = Split.whole(FileSource(unlabeled.parent, files, np.zeros(len(files))))
    validation, *rest = [_scan(folder, classes) for folder in (first, *others)]
    return Splits(train, validation, rest[-1] if rest else validation, classes.names)


def read_folder(root: Path, val_fraction: float | None, known: ClassNames | None = None) -> Splits:
    """A folder tree with `train` and, optionally, `val` (or `validation`) and `test`.

    Without `test`, `val` is the evaluation split, as is the custom with ImageNet: `test` of the result.
    Model selection then reads the same images, unless `val_fraction` holds some out of `train` for it.
    Without `val`, `val_fraction` of `train` (0.1 where it is None) is held out; with neither, the held-out
    images are the evaluation split as well. What is evaluated only may come without `train`.
    """
    folder = root / "train"
    classes = known or ClassNames(tuple(class_folders(folder)), str(folder))
    train = _scan(folder, classes) if folder.is_dir() else Split.whole(FileSource(folder, [], np.zeros(0)))
    others = {name: _scan(root / name, classes) for name in EVALUATED if (root / name).is_dir()}
    given, test = others.get("val", others.get("validation")), others.get("test")
    if given is not None and (test is not None or val_fraction is None):
        if val_fraction is not None:
            warnings.warn(f"data.val_fraction is ignored: {root} has val and test", stacklevel=2)
        return Splits(train, given, test or given, classes.names)
    rest, held = hold_out(train.targets, val_fraction or 0.1)
    validation = train.take(held)
    return Splits(train.take(rest), validation, test or given or validation, classes.names)
