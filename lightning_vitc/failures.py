"""Failures of the machine that a command meets, in one line each: a full disk, a data worker that died."""

import errno
import re

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", re.DOTALL)


def explained(error: BaseException) -> str | None:
    """One line for a failure of the machine, which is no fault of the program; `None` for anything else."""
    if isinstance(error, RuntimeError) and (found := DEAD_WORKER.search(str(error))):
        reason = found[2].split(".")[0].removeprefix("is ").strip()
        return (
            f"a data worker (process {found[1]}) died: {reason}; if memory ran out, lower data.num_workers; "
            "the same command continues from the last checkpoint"
        )
    failed = disk_error(error)
    if failed is None:
        return None
    place = f"{failed.filename}: " if failed.filename else ""
    return f"{place}{failed.strerror}; what was saved before is whole, and the same command continues from there"


def disk_error(error: BaseException | None) -> OSError | None:
    """The refusal of a disk that an error is, or comes from: torch writes another one over it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # causes may go round in a circle
        if isinstance(error, OSError) and error.errno in DISK:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
