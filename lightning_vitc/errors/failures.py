"""Failures of the machine that a command meets, in one line each: a full disk, a data worker that died."""

import errno
import re
import threading
from collections.abc import Iterator

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", re.DOTALL)


def explained(error: BaseException) -> str | None:
    """One line for a failure of the machine, which is no fault of the program; `None` for anything else."""
    if (line := _dead_worker(error)) is not None:
        return line
    failed = disk_error(error)
    if failed is None:
        return None
    place = f"{failed.filename}: " if failed.filename else ""
    return f"{place}{failed.strerror}; what was saved before is whole, and the same command continues from there"


def disk_error(error: BaseException | None) -> OSError | None:
    """The refusal of a disk that an error is, or comes from: torch and loggers raise others over it."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK:
            return cause
    return None


def ignore_in_threads(args: threading.ExceptHookArgs) -> None:
    """`threading.excepthook` for TensorBoard's writer, which also hands a disk's refusal to whoever logs next."""
    if disk_error(args.exc_value) is None:
        threading.__excepthook__(args)


def _dead_worker(error: BaseException) -> str | None:
    for cause in _causes(error):
        if isinstance(cause, RuntimeError) and (found := DEAD_WORKER.search(str(cause))):
            reason = found[2].split(".")[0].removeprefix("is ").strip()
            lacking = "shared memory (/dev/shm)" if "Bus error" in reason else "memory"
            return (
                f"a data worker (process {found[1]}) died: {reason}; if {lacking} ran out, lower data.num_workers; "
                "the same command continues from the last checkpoint"
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it comes from, and so on; each once, for they may go round in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
