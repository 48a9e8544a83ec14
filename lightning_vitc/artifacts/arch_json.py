"""`arch.json` of an export: what the network is, how accurate, of which data, and where it comes from."""

from pathlib import Path
from typing import Any

from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened
from lightning_vitc.images.preprocessing import Transform, transform_of

ARCH, SEVERAL = "arch.json", "models.json"
FORMAT, READ = 2, (1, 2)  # what is written, and what is read
AGAIN = "; export the model again"  # how messages end: what helps, if it is an export and not of a run
SECTIONS = ("files", "formats", "budget", "accuracy", "costs", "dense", "preprocessing", "experiment", "provenance",
            "settings")  # fmt: skip


def read_arch(directory: str | Path) -> dict[str, Any]:
    """The content of `arch.json`.

    Raises:
        UserError: where it is missing, damaged or of a later format.
    """
    path = Path(directory) / ARCH
    try:
        document = opened(path.read_bytes())
        known = document["format"] in READ
        sections = [document["architecture"] if known else {}, *(document.get(key) or {} for key in SECTIONS)]
        if not all(isinstance(section, dict) for section in sections):
            raise TypeError
    except OSError:
        if (Path(directory) / SEVERAL).is_file():
            names = ", ".join(models_in(directory))
            raise UserError(f"{directory}: holds several models; name one of its folders: {names}") from None
        raise UserError(f"{path}: no such file; {_without_arch(Path(directory))}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged{AGAIN}") from None
    if not known:
        ours = " and ".join(map(str, READ))
        raise UserError(f"{path}: format {document['format']} is not known to this version, which reads {ours}")
    return document


def _without_arch(directory: Path) -> str:
    """What a directory is that is no export."""
    if (directory / "config.json").is_file():
        return f"for a folder of timm write local-dir:{directory}"
    if any((directory / file).exists() for file in FILES.values()):
        return "half of an export; export the model again"
    return "expected a directory written by 'vitc export'"


def models_in(directory: str | Path) -> list[str]:
    """The folders of an export of several models.

    Raises:
        UserError: where the list of them is damaged.
    """
    path = Path(directory) / SEVERAL
    try:
        return [str(name) for name in list(opened(path.read_bytes())["models"])]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged{AGAIN}") from None


def preprocessing_in(document: dict[str, Any]) -> dict[str, Any]:
    """What `arch.json` says of it; in those of earlier versions `exif` is only in the experiment."""
    data = (document.get("experiment") or {}).get("data")
    earlier = bool(data.get("exif")) if isinstance(data, dict) else False
    return {"exif": earlier, **(document.get("preprocessing") or {})}


def transform_in(document: dict[str, Any], directory: str | Path) -> Transform | None:
    """The transform that `arch.json` describes, if it does.

    Raises:
        UserError: where it is damaged.
    """
    try:
        return transform_of(preprocessing_in(document))
    except Exception as error:  # of timm, whatever is missing
        raise UserError(f"{Path(directory) / ARCH}: damaged: no such preprocessing ({error}){AGAIN}") from None


def classes_in(document: dict[str, Any], directory: str | Path, count: int) -> tuple[str, ...] | None:
    """The names of the classes in `arch.json`, as many as the network has, or `None`.

    Raises:
        UserError: where they are damaged.
    """
    names = document.get("classes")
    if not names:
        return None
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise UserError(f"{Path(directory) / ARCH}: damaged: classes are not {count} names{AGAIN}")
    return tuple(names)
