"""From `seed=0,1,2 budget.macs=40%,50%` to a run for every combination, each with a name of its own."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import Experiment

BRACKETS, QUOTES = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}, "\"'"
NAMELESS = "method.name"  # whose value says enough


@dataclass(frozen=True)
class Combination:
    """One run of a sweep.

    Attributes:
        values: of the keys that differ between runs, as they were written.
        overrides: all of its `key=value`.
        experiment: typed and checked.
    """

    values: dict[str, str]
    overrides: tuple[str, ...]
    experiment: Experiment

    @property
    def directory(self) -> Path:
        """Of the run."""
        return RunDirectory.of(self.experiment).path


def combinations(experiment: str, overrides: Sequence[str], check_files: bool = True) -> list[Combination]:
    """Every combination of the values, the first key changing slowest.

    Args:
        experiment: a name or a path.
        overrides: `key=value` or `key=value,value`; commas inside of brackets and quotes belong to a value.
        check_files: see `load_experiment`.

    Raises:
        UserError: for the first combination that an experiment cannot be made of, or two of one name.
    """
    keys = [override.partition("=") for override in overrides]
    named = [key for key, _, _ in keys]
    if twice := next((key for key in named if named.count(key) > 1), None):
        raise UserError(f"{twice}: given twice; name all of its values at once, between commas")
    several = {key: found for key, _, text in keys if len(found := list(split(text))) > 1}
    fixed = [override for override, (key, _, _) in zip(overrides, keys, strict=True) if key not in several]
    prefix = [text for key, _, text in keys if key == "run_name" and key not in several]
    fixed = [override for override in fixed if not override.startswith("run_name=")]
    runs = []
    for chosen in itertools.product(*several.values()):
        values: dict[str, str] = dict(zip(several, chosen, strict=True))
        name = "-".join([*prefix, *(_part(key, value, several) for key, value in values.items())]) or "default"
        made = (*fixed, *(f"{key}={value}" for key, value in values.items()), f"run_name={name}")
        runs.append(Combination(values, made, _checked(experiment, made, values, check_files)))
    names = [each.experiment.run_name for each in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two runs would be called {twice}; give every value once")
    return runs


def split(text: str) -> Iterator[str]:
    """The values between commas that are not inside of brackets or quotes.

    Raises:
        UserError: for one that is empty.
    """
    start, depth, quote = 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        else:
            depth += BRACKETS.get(letter, 0)
        if letter == "," and not depth and not quote:
            yield _given(text[start:place], text)
            start = place + 1
    yield text[start:] if start == 0 else _given(text[start:], text)


def _given(value: str, text: str) -> str:
    if not value.strip():
        raise UserError(f"{text!r}: a value between commas is empty")
    return value.strip()


def _part(key: str, value: str, several: dict[str, list[str]]) -> str:
    """`seed0`, `macs40pct`; the whole key where its last word is not its own."""
    last = key.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in several) == 1
    word = "" if key == NAMELESS else last if alone else key
    return re.sub(r"[^\w.+-]+", "_", f"{word}{value.replace('%', 'pct')}").strip("._-")


def _checked(name: str, overrides: Sequence[str], values: dict[str, str], check_files: bool) -> Experiment:
    try:
        return load_experiment(name, overrides, check_files=check_files)
    except UserError as error:
        which = " ".join(f"{key}={value}" for key, value in values.items())
        raise UserError(f"{error} (with {which})" if which else str(error)) from None
