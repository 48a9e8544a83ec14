"""What was measured once on a machine, kept for the next time: a JSON file a set of networks and a place."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.latency.place import Place
from lightning_vitc.training.checkpoints import write_atomically

FORMAT = 1  # of the files, and of how their numbers are measured


def folder() -> Path:
    """`$XDG_CACHE_HOME/lightning-vitc`, or `~/.cache/lightning-vitc`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lightning-vitc"


def key_of(dense: ArchSpec, specs: Mapping[str, ArchSpec], place: Place) -> dict[str, Any]:
    """What the numbers depend on: the place, and the shapes of the networks, whatever their model is called."""
    shapes = {name: replace(spec, name="").to_json() for name, spec in {"dense": dense, **specs}.items()}
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    return {"format": FORMAT, **place.described(), "networks": digest}


def file_of(key: Mapping[str, Any], name: str) -> Path:
    """Where the numbers of a key are kept."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder() / f"latency-{Path(name).name}-{key['device']}-{digest[:12]}.json"


def read(path: Path, key: Mapping[str, Any]) -> dict[str, int] | None:
    """Nanoseconds by network; `None` where there are none of this key, or none that can be read."""
    try:
        document = json.loads(path.read_text())
        found = document["nanoseconds"] if all(document["key"].get(name) == key[name] for name in key) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    whole = isinstance(found, dict) and all(type(value) is int and value > 0 for value in found.values())
    return found if whole else None


def write(path: Path, key: Mapping[str, Any], nanoseconds: Mapping[str, int]) -> bool:
    """Keep them; whether that was possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps({"key": key, "nanoseconds": nanoseconds}, indent=1) + "\n").encode())
    except OSError:
        return False
    return True
