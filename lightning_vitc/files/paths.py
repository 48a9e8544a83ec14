"""Paths as users write them: `~` is a home directory, and what no file system holds is refused."""

import argparse
import os
import unicodedata
from pathlib import Path

from lightning_vitc.errors import UserError

LONGEST_NAME = 255  # bytes
LOCAL = "local-dir:"  # of timm, before the path of a model
LONGEST_PATH = 3400  # bytes; Linux takes 4095, of which the names of a run and of its files need some


def expanded(text: str, key: str = "") -> str:
    """The path with `~` or `~user` at its beginning replaced by that home directory.

    Args:
        text: a path as it was written.
        key: that messages begin with.

    Raises:
        UserError: for a path that is blank, too long, not UTF-8, holds control characters, or begins with the home
            directory of nobody.
    """
    if text.startswith(LOCAL):
        return LOCAL + expanded(text.removeprefix(LOCAL), key)
    path = os.path.expanduser(text)  # noqa: PTH111 - pathlib would drop `./` and a slash at the end
    if problem := _problem(path):
        raise UserError(f"{key}: {text!r} {problem}" if key else f"{text!r} {problem}")
    return path


def path_argument(text: str) -> str:
    """The same for a path on the command line: a `type` of argparse."""
    try:
        return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _problem(path: str) -> str | None:
    if not path.strip():
        return "is no path: it is blank"
    kinds = {unicodedata.category(character) for character in path}
    if "Cs" in kinds:
        return "is no path: it is not UTF-8 text"
    if "Cc" in kinds:
        return "is no path: it holds control characters"
    longest = max(len(name.encode()) for name in Path(path).parts or (path,))
    if longest > LONGEST_NAME:
        return f"is no path: a name in it has {longest:,} bytes; {LONGEST_NAME} are possible"
    if (length := len(path.encode())) > LONGEST_PATH:
        return f"is no path: it has {length:,} bytes; {LONGEST_PATH:,} are possible"
    if path.startswith("~"):
        user = path[1:].partition(os.sep)[0]
        return f"begins with the home directory of nobody; for a folder called '~{user}' write './{path}'"
    return None
