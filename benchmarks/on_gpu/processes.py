"""Processes that end with the one that has started them, however that one ends."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

FORKING = "LIGHTNING_VITC_GPU_FORKING"  # "fork" or "spawn"
STOPS = (signal.SIGTERM, signal.SIGHUP)
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def started(function: Callable[..., None], *arguments: Any) -> Any:
    """A process that runs a function, which must be importable."""
    context: Any = multiprocessing.get_context(os.environ.get(FORKING, "fork"))
    process = context.Process(target=_bound, args=(os.getpid(), function, *arguments))
    process.start()
    return process


def _bound(parent: int, function: Callable[..., None], *arguments: Any) -> None:
    die_with(parent)
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    function(*arguments)


def die_with(parent: int) -> None:
    """Have this process killed when its parent dies, where the system can do that: Linux."""
    if set_option := getattr(ctypes.CDLL(None), "prctl", None):
        set_option(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it has died already
        os._exit(1)


def lead() -> None:
    """Make this process the leader of a group of its own."""
    os.setsid()


def end(process: Any) -> None:
    """Kill one with its process group, if it leads one, and wait for it."""
    send(process, signal.SIGKILL)
    process.join()


def end_all() -> None:
    """That this process has started."""
    for process in multiprocessing.active_children():
        end(process)


def send(process: Any, number: int) -> None:
    """A signal to a process and its group, if it leads one."""
    for how in (os.killpg, os.kill):
        try:
            how(process.pid, number)
        except ProcessLookupError:
            continue
        return


def stop_by_signals() -> None:
    """Have a signal that stops end this process by an exception, so that it ends what it has started."""
    for number in STOPS:
        if signal.getsignal(number) is signal.SIG_DFL:  # not where `nohup` has it ignored
            signal.signal(number, _stop)


def _stop(number: int, _: Any) -> None:
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)  # one is enough
    sys.exit(128 + number)


def into(out: str, error: str) -> None:
    """Standard output and errors of this process go into files."""
    for number, name in ((1, out), (2, error)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
