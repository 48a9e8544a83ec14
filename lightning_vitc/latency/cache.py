"""What was measured once on a machine, kept for the next time: a JSON file for a dense network at a place."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.files.records import opened, sealed
from lightning_vitc.latency.place import Place
from lightning_vitc.networks.spec import ArchSpec

FORMAT = 2  # of the files, and of how their numbers are measured
DENSE = "dense"


def folder() -> Path:
    """`$XDG_CACHE_HOME/lightning-vitc`, or `~/.cache/lightning-vitc`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "lightning-vitc"


def key_of(dense: ArchSpec, place: Place) -> dict[str, Any]:
    """What the numbers of networks depend on beside their shapes: the place, and what they are measured beside."""
    return {"format": FORMAT, **place.described(), DENSE: digest(dense)}


def digest(spec: ArchSpec) -> str:
    """Of a network's shape, whatever its model is called."""
    return _digest(dataclasses.asdict(dataclasses.replace(spec, name="")))


def label(name: str, spec: ArchSpec) -> str:
    """Of a network in a file: its name for people, and what tells it from others."""
    return f"{name} [{digest(spec)}]"


def file_of(key: Mapping[str, Any], name: str) -> Path:
    """Where the numbers of a key are kept."""
    return folder() / f"latency-{Path(name).name}-{key['device']}-{_digest(key)}.json"


def read(path: Path, key: Mapping[str, Any]) -> dict[str, int] | None:
    """Nanoseconds by network; `None` where there are none of this key, or none that can be read."""
    try:
        document = opened(path.read_bytes())
        found = document["nanoseconds"] if all(document["key"].get(name) == key[name] for name in key) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if not isinstance(found, dict) or DENSE not in found:
        return None
    return found if all(type(value) is int and value > 0 for value in found.values()) else None


def write(path: Path, key: Mapping[str, Any], nanoseconds: Mapping[str, int]) -> bool:
    """Keep them; whether that was possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(sealed({"key": key, "nanoseconds": nanoseconds}), indent=1) + "\n").encode())
    except OSError:
        return False
    return True


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
