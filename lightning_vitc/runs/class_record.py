"""Which classes a run, or an exported network, was trained on and in which order: `classes.txt` of a run."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_vitc.artifacts.arch_json import classes_in
from lightning_vitc.data.catalog import EVALUATED, TREES
from lightning_vitc.data.classes import ClassNames, as_file, natural_order, read_class_file
from lightning_vitc.data.tree import class_folders
from lightning_vitc.errors import UserError
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import DataConfig

FILE = "classes.txt"  # what `data.classes` takes, too
REMEDY = "; set run_name to another name, or use --fresh to start over"


def write_record(directory: RunDirectory, names: Sequence[str]) -> None:
    """Keep the order for good."""
    if not (directory.path / FILE).exists():
        write_atomically(directory.path / FILE, as_file(names))


def classes_of_run(directory: RunDirectory, data: DataConfig, evaluated: bool) -> ClassNames | None:
    """The classes of a run, or `None` where it has not begun, or is of other data.

    Args:
        directory: of the run.
        data: its section `data`.
        evaluated: on data that may lack some of them; else the run is continued, on all.

    Raises:
        UserError: where the record is damaged, or the order of an earlier version cannot be told.
    """
    place = str(directory.path)
    written = directory.written().get("data") if directory.config.is_file() else None
    if not isinstance(written, dict) or not (evaluated or written.get("name") == data.name):
        return None
    if (directory.path / FILE).is_file():
        names = read_class_file(directory.path / FILE, key=None)
    elif "classes" not in written:
        return _of_earlier_version(data, place, evaluated)
    elif directory.is_complete() and "classes" in (result := directory.read_result()):
        names = tuple(result["classes"])
    else:
        return None
    return ClassNames(names, place, partial=evaluated, remedy="" if evaluated else REMEDY)


def classes_of_export(directory: str | Path, document: dict[str, Any], data: DataConfig) -> ClassNames | None:
    """The classes of an exported network, given the content of its `arch.json`; `None` where nobody knows them."""
    if names := classes_in(document, directory, document["architecture"].get("num_classes", 0)):
        return ClassNames(names, str(directory), partial=True)
    return _of_earlier_version(data, str(directory), partial=True)


def must_keep_order(known: ClassNames | None, data: DataConfig) -> None:
    """Refuse to continue a run in another order of classes than it was begun with.

    Raises:
        UserError: where `data.classes` is not the order of the run.
    """
    if known is not None and data.classes is not None and read_class_file(data.classes) != known.names:
        raise UserError(
            f"data.classes: {known.source} was begun with another order of classes than {data.classes}; leave the key "
            f"out to keep it{REMEDY.replace(';', ',')}"
        )


def _of_earlier_version(data: DataConfig, place: str, partial: bool) -> ClassNames | None:
    """Its order, of the folders that are there now; a warning where today's would be another one."""
    if data.classes is not None:
        return ClassNames(read_class_file(data.classes), data.classes, "data.classes", partial)
    root = Path(data.root or "")
    splits = EVALUATED if data.unlabeled is not None else ("train", *EVALUATED)
    folder = next((root / name for name in splits if (root / name).is_dir()), None)
    if data.name not in TREES or data.root is None or folder is None:
        return None
    now = tuple(class_folders(folder))
    then = natural_order(now, place)
    if now != then:
        late = next(after for before, after in zip(now, then, strict=True) if before != after)
        warnings.warn(
            f"{place}: of a version that ordered classes by the numbers in their names; it keeps that order "
            f"({late!r} is class {then.index(late)}, not {now.index(late)})", stacklevel=2,
        )  # fmt: skip
    return ClassNames(then, str(folder), partial=partial)
