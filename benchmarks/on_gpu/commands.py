"""The command `vitc`, in processes of its own."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from on_gpu import processes
from on_gpu.children import Failed

_count = 0


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    error: str

    @property
    def last_line(self) -> str:
        """Of its errors: what it says."""
        return (self.error.strip().splitlines() or [""])[-1][:300]


def vitc(place: Any, *arguments: str, code: int = 0, before: Callable[[], None] | None = None) -> Done:
    """The command to its end.

    Args:
        place: where.
        arguments: of the command.
        code: that it must exit with.
        before: is called in its process first.

    Raises:
        Failed: where it ends with another exit code.
    """
    _, done = start_vitc(place, *arguments, before=before)
    if (found := done()).code != code:
        raise Failed(f"vitc {' '.join(arguments[:2])} ended with {found.code}, not {code}: {found.last_line}")
    return found


def start_vitc(place: Any, *arguments: str, before: Callable[[], None] | None = None) -> tuple[Any, Callable[[], Done]]:
    """Its process; the function waits for its end."""
    global _count  # noqa: PLW0603
    _count += 1
    stem = Path(place.scratch) / "commands" / f"{os.getpid()}-{_count}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_suffix(suffix) for suffix in (".out", ".err")]
    process = processes.started(_command, before, arguments, *map(str, files))

    def done() -> Done:
        process.join()
        return Done(process.exitcode, *(file.read_text() if file.exists() else "" for file in files))

    return process, done


def _command(before: Callable[[], None] | None, arguments: tuple[str, ...], out: str, error: str) -> None:
    processes.into(out, error)
    from lightning_vitc.cli import main

    if before is not None:
        before()
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
