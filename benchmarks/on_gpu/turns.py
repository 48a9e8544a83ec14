"""How a child gets the machine to itself: it asks, and all others are stopped until it has gone on, or has left it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

WAITS, LEAVES = "waits", "leaves"  # what a child says: it asks for the machine, it gives it back
SETTLING = 0.5  # seconds until kernels that others had launched before they were stopped are done
_parent: Connection | None = None


def answer_to(pipe: Connection) -> None:
    """Where to ask, from this process and those that it forks."""
    global _parent  # noqa: PLW0603
    _parent = pipe


def turn() -> None:
    """Wait, in a child, for the machine; from then on it is its own until it ends or leaves."""
    if _parent is not None:
        _parent.send(WAITS)
        if _parent.recv():
            time.sleep(SETTLING)


def leave() -> None:
    """Give the machine back."""
    if _parent is not None:
        _parent.send(LEAVES)


@contextmanager
def alone() -> Iterator[None]:
    """Have the machine for a while."""
    turn()
    try:
        yield
    finally:
        leave()


def alone_in(module: str, name: str) -> None:
    """Have a function that a module of the package calls, one that measures, run alone from now on, in this process."""
    owner = import_module(module)
    function: Callable[..., Any] = getattr(owner, name)

    @wraps(function)
    def measured(*given: Any, **named: Any) -> Any:
        with alone():
            return function(*given, **named)

    setattr(owner, name, measured)
