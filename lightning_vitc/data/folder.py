"""Folder trees: `ROOT/train/CLASS/image.jpg` and so on; ImageNet is one of them."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from lightning_vitc.data.catalog import EVALUATED
from lightning_vitc.data.classes import ClassNames
from lightning_vitc.data.sources import FileSource, Split, Splits
from lightning_vitc.data.subsets import hold_out
from lightning_vitc.data.tree import EXTENSIONS, class_folders, files_beside_classes, image_files
from lightning_vitc.errors.messages import counted
from lightning_vitc.schema.split_names import HELD_OUT, TEST, VALIDATION


def _scan(folder: Path, classes: ClassNames, ignored: Counter[str]) -> Split:
    """The images of a split, whose class folders are those that are known."""
    found = {*class_folders(folder)}
    classes.check(found, str(folder))
    numbers = [number for number, name in enumerate(classes.names) if name in found]
    files = [image_files(folder / classes.names[number], ignored) for number in numbers]
    ignored["outside of a class folder"] += files_beside_classes(folder)
    targets = np.repeat(numbers, [len(names) for names in files])
    return Split.whole(FileSource(folder, [name for names in files for name in names], targets))


def read_with_unlabeled(
    root: Path, unlabeled: Path, known: ClassNames | None = None, only: str | None = None
) -> Splits:
    """Training images from anywhere below a folder, of class 0 all of them; the other splits of a folder tree."""
    folders = [root / name for name in EVALUATED if (root / name).is_dir()]
    first, last = folders[0], folders[-1]
    classes = known or ClassNames(tuple(class_folders(first)), str(first))
    ignored: Counter[str] = Counter()
    files = image_files(unlabeled, ignored, "data.unlabeled:") if unlabeled.is_dir() and only in (None, "train") else []
    train = Split.whole(FileSource(unlabeled.parent, files, np.zeros(len(files))))
    wanted = {None: {first, last}, "validation": {first}, "test": {last}}.get(only, set())
    parts = {folder: _scan(folder, classes, ignored) for folder in dict.fromkeys((first, last)) if folder in wanted}
    validation, test = (parts.get(folder) or Split.none_of(folder) for folder in (first, last))
    _tell(root, ignored)
    selected_on, evaluated = (TEST if folder.name == "test" else VALIDATION for folder in (first, last))
    return Splits(train, validation, test, classes.names, selected_on=selected_on, evaluated=evaluated)


def read_folder(
    root: Path, val_fraction: float | None, known: ClassNames | None = None, only: str | None = None
) -> Splits:
    """A folder tree with `train` and, optionally, `val` (or `validation`) and `test`.

    Without `test`, `val` is the evaluation split, as is the custom with ImageNet: `test` of the result.
    Model selection then reads the same images, unless `val_fraction` holds some out of `train` for it.
    Without `val`, `val_fraction` of `train` (0.1 where it is None) is held out; with neither, the held-out
    images are the evaluation split as well. What is evaluated only may come without `train`: of the splits, `only`
    this one is read, and what it is held out of.
    """
    folder = root / "train"
    classes = known or ClassNames(tuple(class_folders(folder)), str(folder))
    there = [name for name in EVALUATED if (root / name).is_dir()]
    given, test = next((name for name in there if name != "test"), None), "test" if "test" in there else None
    holds_out = given is None or (test is None and val_fraction is not None)
    chosen, last = "train" if holds_out or given is None else given, test or given or "train"
    of_role = {"train": "train", "validation": chosen, "test": last}
    wanted = {*of_role.values()} if only is None else {of_role[only]}
    ignored: Counter[str] = Counter()
    parts = {
        name: _scan(root / name, classes, ignored)
        for name in dict.fromkeys(of_role.values())
        if name in wanted and (root / name).is_dir()
    }
    _tell(root, ignored)
    train, validation, tested = (parts.get(name) or Split.none_of(folder) for name in of_role.values())
    if not holds_out:
        if val_fraction is not None:
            warnings.warn(f"data.val_fraction is ignored: {root} has val and test", stacklevel=2)
        return Splits(train, validation, tested, classes.names, evaluated=VALIDATION if test is None else TEST)
    rest, held = hold_out(train.targets, val_fraction or 0.1)
    validation = train.take(held)
    evaluated = TEST if test is not None else VALIDATION if given is not None else HELD_OUT
    tested = tested if there else validation
    return Splits(train.take(rest), validation, tested, classes.names, selected_on=HELD_OUT, evaluated=evaluated)


def _by_count(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]


def _tell(root: Path, ignored: Counter[str]) -> None:
    """Count what is no image, once for all splits."""
    if ignored := +ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items(), key=_by_count))
        files = counted(ignored.total(), f"file of {root} is", f"files of {root} are")
        warnings.warn(
            f"data.root: {files} ignored: {kinds}; images are {' '.join(EXTENSIONS)}",
            stacklevel=4,
        )
