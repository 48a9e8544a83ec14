"""Where experiments are, and one experiment merged with its bases."""

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import expanded
from lightning_vitc.schema import Experiment

from . import yaml_text
from .suggest import did_you_mean

Layer = dict[str, Any]

_OWN = ("base", "name", "description")  # keys that speak about one file and are not inherited
_RECIPES = ("paper", "released")  # the first is the experiment as it stands
_HINTS = get_type_hints(Experiment)
SECTIONS = frozenset(
    field.name
    for field in fields(Experiment)
    if is_dataclass(_HINTS[field.name]) or field.name in ("method", "callbacks")
)
"""The keys of an experiment that hold keys."""


def experiment_folders() -> list[Path]:
    """The folders of named experiments, first wins: the current directory's, then those of the package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "experiments"  # in a wheel; a checkout has them beside the package
    shipped = installed if installed.is_dir() else package.parent / "experiments"
    own = Path("experiments")
    folders = [own] if own.resolve() == shipped.resolve() else [own, shipped]
    return [folder for folder in folders if folder.is_dir()]


def experiments() -> dict[str, str]:
    """Every named experiment with its description, or with what is wrong with its file."""
    files = {path.stem: path for folder in reversed(experiment_folders()) for path in folder.glob("*.yaml")}
    return {name: _description(files[name]) for name in sorted(files)}


def find_experiment(name_or_path: str) -> Path:
    """The file of an experiment, given by its name or by the path of a YAML."""
    given = expanded(name_or_path)
    if _is_path(given):
        return _existing(Path(given), name_or_path)
    for folder in experiment_folders():
        if (path := folder / f"{name_or_path}.yaml").is_file():
            return path
    names = {path.stem for folder in experiment_folders() for path in folder.glob("*.yaml")}
    hint = did_you_mean(name_or_path, sorted(names)).removesuffix("?")
    hint = f"{hint}? See 'vitc list'" if hint else "; see 'vitc list', or give the path of a YAML"
    raise UserError(f"{name_or_path}: unknown experiment{hint}")


def read_with_bases(path: Path, recipe: Any = None) -> dict[str, Any]:
    """The keys of the experiment at `path` above those of its bases.

    A file that is reached twice counts where it comes first, so that later bases keep what they change in it.

    Args:
        path: the file.
        recipe: in place of what the files say.

    Raises:
        UserError: for a file that cannot be read, or a recipe that is not offered.
    """
    values: dict[str, Any] = {}
    layers = list(_layers(path, recipe, (), set()))
    for file, layer in layers:
        if file != path:
            layer = {key: value for key, value in layer.items() if key not in _OWN}
        values = merge(values, layer)
    resolved = "base" not in values and values.get("recipe")  # such as the config.yaml of a run
    wanted = recipe or values.get("recipe")
    if wanted in _RECIPES and wanted != resolved and not any(_released_file(file) for file, _ in layers):
        raise UserError(f"recipe: {wanted} is not offered by {path.stem}, whose settings are its own; leave it out")
    values.pop("base", None)
    return values if wanted is None else values | {"recipe": wanted}


def origins(path: Path, recipe: Any = None) -> dict[str, str]:
    """The file that sets each key of an experiment, `base/digits.yaml`, by the key's full name."""
    found: dict[str, str] = {}
    for file, layer in _layers(path, recipe, (), set()):
        found |= dict.fromkeys(flat(layer), f"{file.parent.name}/{file.name}")
    return found


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `{"section.key": value}`."""
    if not isinstance(values, dict):
        return {prefix: values}
    merged: dict[str, Any] = {}
    for key, value in values.items():
        merged |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return merged


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`: sections key by key, everything else (lists too) as a whole."""
    merged = dict(below)
    for key, value in above.items():
        low = below.get(key)
        merged[key] = merge(low, value) if isinstance(low, dict) and isinstance(value, dict) else value
    return merged


def shown(path: Path) -> str:
    """The path as messages name it: below the current directory where it is there."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links as the user wrote them
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _layers(path: Path, recipe: Any, open_files: tuple[Path, ...], done: set[Path]) -> Iterator[tuple[Path, Layer]]:
    """The files of an experiment with their keys, lowest first; a recipe that a file sets is that of its bases too."""
    real = path.resolve()
    if real in open_files:
        circle = " -> ".join(file.name for file in (*open_files[open_files.index(real) :], real))
        raise UserError(f"{shown(path)}: base: the bases go in a circle: {circle}")
    if real in done:
        return
    done.add(real)
    values = yaml_text.read_file(path, shown=shown(path))
    recipe = recipe or values.get("recipe")
    for base in _base_names(values.get("base"), path):
        yield from _layers(_find_base(base, path), recipe, (*open_files, real), done)
    yield path, {key: value for key, value in values.items() if value is not None or key not in SECTIONS}
    if recipe == _RECIPES[1] and (above := _released_file(path)):
        yield from _layers(above, recipe, (*open_files, real), done)


def _released_file(path: Path) -> Path | None:
    """What the authors' code has in place of a file's settings: `base/<name>_released.yaml`."""
    folder = path.parent if path.parent.name == "base" else path.parent / "base"
    file = folder / f"{path.stem}_{_RECIPES[1]}.yaml"
    return file if file.is_file() else None


def _base_names(value: Any, path: Path) -> list[str]:
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{shown(path)}: base: {value!r} is not a list of names, such as [imagenet, deit_b]")
    return names


def _find_base(name: str, path: Path) -> Path:
    relative = expanded(name, f"{shown(path)}: base")
    if _is_path(name):
        return _existing(path.parent / relative, f"{shown(path)}: base: {name}")
    places = [path.parent, *experiment_folders()]
    folders = [folder for place in places for folder in (place / "base", place)]
    for folder in folders:
        if (candidate := folder / f"{name}.yaml").is_file():
            return candidate
    names = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    raise UserError(f"{shown(path)}: base: unknown base '{name}'{did_you_mean(name, sorted(names))}")


def _existing(path: Path, named: str) -> Path:
    if path.is_dir():
        raise UserError(f"{named}: is a folder; name a YAML file in it")
    if not path.is_file():
        raise UserError(f"{named}: no such file")
    return path


def _is_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.endswith((".yaml", ".yml"))


def _description(path: Path) -> str:
    try:
        return str(yaml_text.read_file(path, shown=shown(path)).get("description") or "")
    except UserError as error:
        return f"(broken: {error})"
