"""Functions in processes of their own: what hangs, or leaves CUDA unusable, takes nothing else along.

A process is forked from this one, which has done the imports and never touches CUDA. It leads a process group, so that
all it has started ends with it; what it prints goes into a file, and what it returns comes back through a pipe. Where
forked processes cannot use the GPU, `FORKING` in the environment makes them fresh ones.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORKING = "LIGHTNING_VITC_GPU_FORKING"  # "fork" or "spawn"
_parent: Connection | None = None
_count = 0


class Skip(Exception):  # noqa: N818  not an error: raised by what cannot run here, with the reason
    """What cannot run here."""


class Failed(Exception):  # noqa: N818  raised with the reason
    """What has run and was not right."""


@dataclass
class Child:
    """A process that runs one function.

    Attributes:
        waits: it asks to have the machine to itself.
        busy: seconds that it has computed until it began to wait.
    """

    process: Any
    pipe: Connection
    log: Path
    since: float
    waits: bool = False
    busy: float = 0.0

    @property
    def seconds(self) -> float:
        """That it has computed; waiting is not counted."""
        return self.busy if self.waits else self.busy + time.monotonic() - self.since

    def heard(self) -> dict[str, Any] | None:
        """Its outcome, or `None` where it has begun to wait."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return self._died()
        if message is not None:
            return message
        self.busy, self.waits = self.seconds, True
        return None

    def go(self) -> None:
        """Give it the machine."""
        self.since, self.waits = time.monotonic(), False
        self.pipe.send(None)

    def end(self) -> None:
        """Kill it with all it has started, and wait for it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.process.join()
        self.pipe.close()

    def _died(self) -> dict[str, Any]:
        self.process.join(5)
        code = self.process.exitcode
        cause = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with {code}"
        return {"status": "failed", "reason": f"the process {cause}", "output": self.output()}

    def output(self, most: int = 2000) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-most:] if self.log.exists() else ""


def start(function: Callable[[], Any], log: Path) -> Child:
    """Run a function, which must be importable, in a process of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = multiprocessing.Pipe()
    process = _context().Process(target=_run, args=(function, theirs, str(log)))
    process.start()
    theirs.close()
    return Child(process, ours, log, time.monotonic())


def turn() -> None:
    """Wait, in a child, until no other one computes; from then on the machine is its own until it ends."""
    if _parent is not None:
        _parent.send(None)
        _parent.recv()


def outcome_of(function: Callable[[], Any]) -> dict[str, Any]:
    """What became of a function: `status`, and `values` or a short `reason`."""
    try:
        return {"status": "ok", "values": function() or {}}
    except Skip as reason:
        return {"status": "skipped", "reason": str(reason)}
    except BaseException as error:
        reason = " ".join(str(error).split())[:300]
        reason = reason if isinstance(error, Failed) else f"{type(error).__name__}: {reason}"
        return {"status": "failed", "reason": reason, "traceback": traceback.format_exc()[-4000:]}


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


def vitc(place: Any, *arguments: str, code: int = 0) -> Done:
    """The command `vitc` in a process of its own, to its end.

    Raises:
        Failed: where it ends with another exit code.
    """
    process, done = start_vitc(place, *arguments)
    process.join()
    if (found := done()).code != code:
        raise Failed(f"vitc {' '.join(arguments[:2])} ended with {found.code}, not {code}: {found.last_line}")
    return found


def start_vitc(place: Any, *arguments: str) -> tuple[Any, Callable[[], Done]]:
    """The command `vitc` in a process of its own; the function reads its end."""
    global _count  # noqa: PLW0603
    _count += 1
    stem = Path(place.scratch) / "commands" / f"{os.getpid()}-{_count}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_suffix(suffix) for suffix in (".out", ".err")]
    process = _context().Process(target=_command, args=(arguments, *map(str, files)))
    process.start()

    def done() -> Done:
        process.join()
        return Done(process.exitcode, *(file.read_text() if file.exists() else "" for file in files))

    return process, done


def _context() -> Any:
    return multiprocessing.get_context(os.environ.get(FORKING, "fork"))


def _run(function: Callable[[], Any], pipe: Connection, log: str) -> None:
    global _parent  # noqa: PLW0603
    os.setsid()
    _into(log, log)
    _parent = pipe
    pipe.send(outcome_of(function))


def _command(arguments: tuple[str, ...], out: str, error: str) -> None:
    _into(out, error)
    from lightning_vitc.cli import main

    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _into(out: str, error: str) -> None:
    """Standard output and errors go into files."""
    for number, name in ((1, out), (2, error)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
