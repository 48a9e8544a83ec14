"""The families of networks: one folder each, with what only they know; found by their names.

`shape.py` (no torch) says what a network of the family costs, what its weights are called and along which axes they
run, and what is narrower or smaller of it; `names.py` names its models where timm has none; `network.py` builds it,
reads it off a model, and walks through it. What they have to offer is in `family.py`.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


@cache
def names() -> tuple[str, ...]:
    """The families; where several know a kind of model, the first one."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/shape.py")))


def shape(family: str) -> Any:
    """The half without torch, a `family.Shape`.

    Raises:
        KeyError: for an unknown family.
    """
    return _half(family, "shape")


def network(family: str) -> Any:
    """The half with torch, a `family.Network`."""
    return _half(family, "network")


def each_network() -> Iterator[Any]:
    """That half of all families that can be built."""
    return (network(name) for name in names() if _has(name, "network"))


def examples() -> dict[str, tuple[str, ...]]:
    """Models of every family that can be built and names some."""
    named = {name: tuple(getattr(shape(name), "EXAMPLES", ())) for name in names() if _has(name, "network")}
    return {name: models for name, models in named.items() if models}


def supported() -> str:
    """The same for a message."""
    return ", ".join(f"{', '.join(models)} ({name})" for name, models in examples().items())


def each_named() -> Iterator[tuple[str, Any]]:
    """The families with names of their own, and these, a `family.Names`."""
    return ((name, _half(name, "names")) for name in names() if _has(name, "names"))


def _has(family: str, half: str) -> bool:
    return (Path(__file__).parent / family / f"{half}.py").exists()


@cache
def _half(family: str, half: str) -> Any:
    if family not in names():
        raise KeyError(family)
    return import_module(f"{__name__}.{family}.{half}")
