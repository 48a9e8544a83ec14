"""A directory that is replaced as a whole: readers, and a crash, find the old content or the new, never a mix."""

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextmanager
def swapped_in(target: Path) -> Iterator[Path]:
    """A new, empty directory to fill; it takes the place of `target` at the end, unless an exception passes.

    What a killed process left half-written beside the target is removed.

    Raises:
        OSError: where it cannot be written.
    """
    target = target.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this number: in containers, often
        temporary.mkdir(parents=True)
        for left in target.parent.glob(f".{target.name}.*.tmp"):
            if not _is_running(left):
                shutil.rmtree(left, ignore_errors=True)
        yield temporary
        _sync(temporary)
        _put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(new: Path, target: Path) -> None:
    """The new directory under the target's name; afterwards `new` is the old one, if there was any."""
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):  # a file system without exchange: for an instant, there is no target
        old = new.with_suffix(".old")
        target.rename(old)
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
        old.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, where the system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_running(left: Path) -> bool:
    match = re.search(r"\.(\d+)\.tmp$", left.name)
    if match is None:
        return True
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
