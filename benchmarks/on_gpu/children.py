"""Functions in processes of their own: what hangs, or leaves CUDA unusable, takes nothing else along.

A process is forked from this one, which has done the imports and never touches CUDA. It leads a process group, so that
all it has started ends with it; what it prints goes into a file, and what it returns comes back through a pipe. Where
forked processes cannot use the GPU, `processes.FORKING` in the environment makes them fresh ones.

What is timed asks for the machine: all others are stopped (SIGSTOP), wherever they are, until it has been timed.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from on_gpu import processes
from on_gpu.turns import LEAVES, WAITS, answer_to


class Skip(Exception):  # noqa: N818  not an error: raised by what cannot run here, with the reason
    """What cannot run here."""


class Failed(Exception):  # noqa: N818  raised with the reason
    """What has run and was not right."""


@dataclass
class Child:
    """A process that runs one function.

    Attributes:
        waits: it asks to have the machine to itself.
        alone: it has.
        stopped: for another one.
        busy: seconds that it has computed until it last began to wait or was stopped.
    """

    process: Any
    pipe: Connection
    log: Path
    since: float
    waits: bool = False
    alone: bool = False
    stopped: bool = False
    busy: float = 0.0

    @property
    def seconds(self) -> float:
        """That it has computed; neither waiting nor being stopped is counted."""
        return self.busy if self.waits or self.stopped else self.busy + time.monotonic() - self.since

    def heard(self) -> dict[str, Any] | None:
        """Its outcome, or `None` where it has begun to wait or gives the machine back."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return self._died()
        if message == LEAVES:
            self.alone = False
        elif message == WAITS:
            self.busy, self.waits = self.seconds, True
        else:
            return message
        return None

    def go(self, alone: bool, settling: bool) -> None:
        """Let it go on: alone, or beside others; after their kernels where these were stopped just now."""
        self.proceed()
        self.since, self.waits, self.alone = time.monotonic(), False, alone
        self.pipe.send(settling)

    def stop(self) -> bool:
        """Stop it with all it has started; whether it was computing."""
        if self.stopped:
            return False
        self.busy, self.stopped = self.seconds, True
        processes.send(self.process, signal.SIGSTOP)
        return not self.waits

    def proceed(self) -> None:
        """Let it go on from where it was stopped, if it was."""
        if self.stopped:
            self.since, self.stopped = time.monotonic(), False
            processes.send(self.process, signal.SIGCONT)

    def end(self) -> None:
        """Kill it with all it has started, and wait for it."""
        processes.end(self.process)
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
    process = processes.started(_run, function, theirs, str(log))
    theirs.close()
    return Child(process, ours, log, time.monotonic())


def give_turns(children: Sequence[Child], tiny: bool) -> None:
    """Let those that wait go on alone, one after another, then all that were stopped; at tiny sizes nobody waits."""
    waiting = [child for child in children if child.waits]
    if tiny:
        for child in waiting:
            child.go(alone=False, settling=False)
    elif any(child.alone for child in children):
        return
    elif waiting:
        stopped = [child.stop() for child in children if child is not waiting[0]]
        waiting[0].go(alone=True, settling=any(stopped))
    else:
        for child in children:
            child.proceed()


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


def _run(function: Callable[[], Any], pipe: Connection, log: str) -> None:
    processes.lead()
    processes.into(log, log)
    answer_to(pipe)
    pipe.send(outcome_of(function))
