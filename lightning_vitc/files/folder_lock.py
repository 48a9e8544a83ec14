"""A folder that one process uses at a time, and that leaves nothing behind where the process was not to begin."""

import fcntl
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

ATTEMPTS = 100  # where another process withdraws at the same time


def is_taken(folder: Path) -> bool:
    """Whether another process has the lock of a folder; it is asked, not tried, so that nobody is kept out."""
    try:
        with (folder / ".lock").open("rb+") as file:
            return _is_locked(file.fileno())
    except OSError:  # no lock, or none of ours
        return False


def _is_locked(descriptor: int) -> bool:
    """Linux's answer; elsewhere the record has another form, and nothing is said."""
    if sys.platform != "linux":
        return False
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_ = struct.unpack("hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return kind != fcntl.F_UNLCK


class FolderLock:
    """An exclusive lock on a folder: its file `.lock`, which stays there, so that nobody locks one that is gone.

    Args:
        folder: made where it is not there.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / ".lock"
        self._file: IO[str] | None = None
        self._made: list[Path] = []  # by this process, innermost first

    def take(self) -> None:
        """Make the folder, and keep other processes out of it.

        Raises:
            BlockingIOError, PermissionError: where another process has it.
            OSError: where it cannot be made, or its file system locks no files.
        """
        for attempt in range(ATTEMPTS):
            self._made = [place for place in (self.path, self.folder, *self.folder.parents) if not place.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w")
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: forked workers would hold it too
                if os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                    return
            except OSError as error:
                if isinstance(error, FileNotFoundError) and attempt < ATTEMPTS - 1:
                    self.release()  # removed by a process that withdrew, in this moment
                    continue
                if error.filename is None and isinstance(error, BlockingIOError | PermissionError):
                    self.release()
                else:
                    self.withdraw()
                raise
            self.release()
        raise OSError("it is removed again and again")

    def release(self) -> None:
        """Let other processes in."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def withdraw(self, whole: bool = False) -> None:
        """Let them in, and remove what was made for the lock, as far as nothing else is in it.

        Args:
            whole: also the file and the folder where they were there before.
        """
        mine = dict.fromkeys([self.path, self.folder, *self._made] if whole else self._made)
        for place in mine:
            with suppress(OSError):  # not empty, not there
                (place.unlink if place == self.path else place.rmdir)()
        self.release()
