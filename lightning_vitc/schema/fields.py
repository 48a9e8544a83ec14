"""Fields of the sections: ranges, and rules of values."""

import re
from collections.abc import Callable
from dataclasses import field
from typing import Any

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given; not imported, to keep this file light


def bounded(default: Any, *, ge: float | None = None, gt: float | None = None,
            le: float | None = None, lt: float | None = None) -> Any:  # fmt: skip
    """A number with a range: `bounded(0.1, ge=0, lt=1)`. Checked after merging, for values that are set."""
    given = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    return field(default=default, metadata=limits)


def rule(expected: str, check: Callable[[Any], bool]) -> dict[str, Any]:
    """Metadata of a field whose values have a rule of their own; `expected` completes "lr: 3 is not ..."."""
    return {"check": check, "expected": expected}


def path(default: str | None) -> Any:
    """A path, or a name in whose place a path may stand: `~` is expanded when the experiment is read."""
    return field(default=default, metadata={"path": True})


def weights(default: bool) -> Any:
    """`pretrained`: from the hub, from a file that holds weights, or from a folder of one, a path with a slash."""
    expected = "true, false or the path of a .safetensors, .pth, .pth.tar, .pt, .ckpt or .bin file, or of its folder"
    suffixes = (".safetensors", ".safetensors.index.json", ".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
    check = rule(expected, lambda v: isinstance(v, bool) or "/" in v or v.lower().endswith(suffixes))
    return field(default=default, metadata={"path": True, **check})


def batches(default: float | None) -> Any:
    """Lightning's limits: an integer counts batches, a float is a fraction of them."""
    expected = "a number of batches (an integer >= 0) or a fraction in [0, 1]"
    check = rule(expected, lambda v: v >= 0 and (isinstance(v, int) or v <= 1))
    return field(default=default, metadata=check)


def some_batches() -> Any:
    """The same where none at all makes no sense."""
    expected = "a number of batches (an integer > 0) or a fraction in (0, 1]"
    check = rule(expected, lambda v: v > 0 and (isinstance(v, int) or v <= 1))
    return field(default=None, metadata=check)


def whole_numbers() -> dict[str, Any]:
    """Metadata of a field for a whole number above 0, or a list of them."""
    expected = "a whole number > 0 or a list of such numbers"
    return rule(expected, lambda v: all(one > 0 for one in (v if isinstance(v, list) and v else [v or 0])))


def file_name(default: str) -> Any:
    """A name that becomes a directory."""
    pattern = re.compile(r"[^/\\\s.-][^/\\\s]*")  # neither hidden, nor "..", nor taken for an option
    expected = "a name without slashes and blanks, of at most 255 bytes"
    check = rule(expected, lambda v: bool(pattern.fullmatch(v)) and v.isprintable() and len(v.encode()) <= 255)
    return field(default=default, metadata=check)


def one_line() -> Any:
    """A text that stands in a line of a file, which it must not end."""
    return field(default=None, metadata=rule("text of one line without control characters", is_one_line))


def is_one_line(text: str) -> bool:
    """Whether a text says something and holds no line breaks and control characters."""
    return bool(text.strip()) and text.isprintable()


def is_devices(value: Any) -> bool:
    """Whether `trainer.devices` is a number, a list of numbers or "auto"."""
    if isinstance(value, str):
        return value == "auto" or bool(re.fullmatch(r"\d+(,\d+)*", value))
    if isinstance(value, list):
        return bool(value) and min(value) >= 0 and len(set(value)) == len(value)
    return value > 0
