"""`vitc show`: every key of an experiment or of a run, where its value comes from, and what it means."""

import argparse
import json
import textwrap
from collections.abc import Mapping

from lightning_vitc.config.explained import DEFAULT, Key, explained
from lightning_vitc.config.yaml_text import inline
from lightning_vitc.files.paths import path_argument

ABOUT = "# In brackets: where a value comes from; the others are defaults."
WIDTH = 100  # of a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="EXP_OR_RUN", type=path_argument, help="a name of 'vitc list', a YAML, or a run directory"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="keys of the experiment")
    parser.add_argument("--json", action="store_true", help="print one JSON document: value, from and comment by key")


def run(args: argparse.Namespace) -> int:
    """Print a YAML that is an experiment of its own, with comments."""
    keys = explained(args.source, args.overrides)
    if args.json:
        print(json.dumps({name: {"value": key.value, "from": key.source, "comment": key.comment}
                          for name, key in keys.items()}))  # fmt: skip
    else:
        print(as_yaml(keys))
    return 0


def as_yaml(keys: Mapping[str, Key]) -> str:
    """Sections and their keys; `[from] comment` behind each, or above it where the line would be long."""
    lines = [ABOUT]
    above: list[str] = []
    for name, key in keys.items():
        *sections, last = name.split(".")
        same = 0
        while same < min(len(sections), len(above)) and sections[same] == above[same]:
            same += 1
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(same, len(sections))]
        lines += _written(last, key, "  " * len(sections))
        above = sections
    return "\n".join(lines)


def _written(name: str, key: Key, indent: str) -> list[str]:
    source = "" if key.source == DEFAULT else f"[{key.source}] "
    line, comment = f"{indent}{name}: {inline(key.value)}", f"{source}{key.comment}".strip()
    if not comment:
        return [line]
    if len(line) + len(comment) + 4 <= WIDTH:
        return [f"{line}  # {comment}"]
    return [*(f"{indent}# {part}" for part in textwrap.wrap(comment, WIDTH - len(indent) - 2)), line]
