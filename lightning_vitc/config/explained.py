"""Every key of an experiment or of a run: its value, where that comes from, and what the key means."""

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from lightning_vitc.errors import UserError
from lightning_vitc.schema import Experiment

from . import typed
from .load import load_experiment, schema_of
from .overrides import parse_overrides
from .sources import find_experiment, flat, origins

NOT_FOR_READERS = ("fmt:", "noqa", "type:")  # comments that speak to tools
COMMAND_LINE, DEFAULT, RUN = "command line", "default", "this run"
METHOD = "one of 'vitc list'"


class Key(NamedTuple):
    """A key of an experiment.

    Attributes:
        value: as it is in effect.
        source: `base/digits.yaml`, "command line", "default", or "this run" for what a run was given.
        comment: what it means.
    """

    value: Any
    source: str
    comment: str


def explained(name_or_path: str, overrides: Iterable[str] = ()) -> dict[str, Key]:
    """The keys of an experiment or of a run's directory, by their full names, in the order of the schema.

    Args:
        name_or_path: an experiment, or the directory of a run.
        overrides: `key=value`, of an experiment.

    Raises:
        UserError: where it is neither, and for a mistake in it.
    """
    config, overrides = Path(name_or_path) / "config.yaml", [*overrides]
    if config.is_file():
        if overrides:
            raise UserError(f"{overrides[0]}: {name_or_path} is a run, whose keys are settled; leave it out")
        experiment = load_experiment(str(config), check_files=False)
        sources = _of_run(experiment)
    else:
        experiment = load_experiment(name_or_path, overrides, check_files=False)
        above = parse_overrides(overrides)
        sources = origins(find_experiment(name_or_path), above.get("recipe")) | dict.fromkeys(flat(above), COMMAND_LINE)
    comments = comments_of(schema_of(experiment)) | {"method.name": METHOD}
    return {
        key: Key(value, sources.get(key, DEFAULT), comments.get(key, ""))
        for key, value in flat(experiment.to_container()).items()
    }


def _of_run(experiment: Experiment) -> dict[str, str]:
    """The files of the run's experiment where they still say what the run was given."""
    try:
        path = find_experiment(experiment.name)
        named = load_experiment(experiment.name, [f"recipe={experiment.recipe}"] if experiment.recipe else [],
                                check_files=False)  # fmt: skip
        sources, today = origins(path, experiment.recipe), flat(named.to_container())
    except UserError:  # no longer there, or of another form
        sources, today = {}, {}
    given = flat(experiment.to_container())
    return {key: sources.get(key, DEFAULT) if key in today and today[key] == value else RUN
            for key, value in given.items()}  # fmt: skip


def comments_of(schema: Any, prefix: str = "") -> dict[str, str]:
    """What stands behind every key in the code of its section, by the key's full name."""
    found: dict[str, str] = {}
    types = get_type_hints(schema)
    own: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        own |= _comments_in(getattr(sys.modules.get(cls.__module__), "__file__", None) or "").get(cls.__name__, {})
    for field in typed.keys(schema):
        if is_dataclass(types[field.name]):
            found |= comments_of(types[field.name], f"{prefix}{field.name}.")
        elif field.name in own:
            found[f"{prefix}{field.name}"] = own[field.name]
    return found


@cache
def _comments_in(file: str) -> Mapping[str, Mapping[str, str]]:
    """The comments of a file that stand behind fields, by class and field."""
    if not file.endswith(".py"):
        return {}
    text = Path(file).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    behind = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokens if token.type == tokenize.COMMENT and token.line.strip() != token.string
    }  # fmt: skip
    behind = {line: comment for line, comment in behind.items() if not comment.startswith(NOT_FOR_READERS)}

    def comment(field: ast.AnnAssign) -> str:
        lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
        return " ".join(behind[line] for line in lines if line in behind)

    return {
        cls.name: {
            field.target.id: comment(field)
            for field in cls.body if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        for cls in ast.walk(ast.parse(text)) if isinstance(cls, ast.ClassDef)
    }  # fmt: skip
