"""`key=value` of the command line."""

import re
from collections.abc import Iterable
from typing import Any

from lightning_vitc.errors import UserError

from . import yaml_text
from .sources import SECTIONS, merge


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """The nested keys that `["optimizer.lr=0.1", "data.scale=[0.5, 1]"]` set; later wins."""
    values: dict[str, Any] = {}
    for override in overrides:
        values = merge(values, _nested(override))
    return {key: value for key, value in values.items() if value is not None or key not in SECTIONS}


def _nested(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts) or key != key.strip():
        raise UserError(f"{override!r}: an override has the form key=value")
    if parts == ["base"]:
        raise UserError("base: set it in the file of an experiment, not on the command line")
    value = _value(key, text)
    for part in reversed(parts):
        value = {part: value}
    return value


def _value(key: str, text: str) -> Any:
    # YAML would take `${a.b}` for a mapping
    if re.match(r"\s*\$\{", text):
        return text.strip()
    return yaml_text.parse(text, shown=key)
