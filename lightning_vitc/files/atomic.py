"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replace_atomically(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: a reader, or a crash, sees the old content or the new, whole.

    Args:
        path: the file.
        previous: where the old content goes; a crash at the wrong moment leaves it there alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file by `replace_atomically`."""
    with replace_atomically(path) as file:
        file.write(data)
