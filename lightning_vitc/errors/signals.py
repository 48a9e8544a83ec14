"""Signals that end a command: which they are, and one line in the place of a death without a word."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from lightning_vitc.errors import Interrupted

# Ctrl-C, a terminal that is closed, Ctrl-\, limits of time, an end by the system, preemption by Slurm: of two that
# reach different ranks the later one counts, because a job that is put back into the queue for nothing loses less than
# one that should have been.
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def answered() -> Iterator[None]:
    """Answer signals as long as nothing better does.

    Raises:
        Interrupted: anywhere within but in an import; KeyboardInterrupt for Ctrl-C.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:  # not in a forked loader worker
            end(number, frame)

    before = taken_over(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(number: int, frame: FrameType | None, where: str | None = None) -> NoReturn:
    """What a handler does about a signal that ends the command: raise, or inside of an import leave at once.

    There an exception would be taken for one of the module: it is tried in another way, or C++ aborts the process.

    Args:
        number: of the signal.
        frame: that was interrupted.
        where: of a run, as `Interrupted` takes it.

    Raises:
        Interrupted: or KeyboardInterrupt for Ctrl-C.
    """
    stop = Interrupted(number, where)
    if _is_in_import(frame):
        with suppress(OSError, RuntimeError, ValueError):  # closed, or interrupted while it was written to
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, b"interrupted\n" if number == signal.SIGINT else f"stopped by {stop}\n".encode())
        os._exit(stop.exit_code)
    raise KeyboardInterrupt if number == signal.SIGINT else stop


def _is_in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def taken_over(handler: Handler, but: int | None = None) -> dict[int, Any]:
    """Have the handler answer all `SIGNALS` that anybody answers: under `nohup`, or behind a shell's `&`, some are not.

    Args:
        handler: of the signals.
        but: one that is left alone.

    Returns:
        The handlers that were there before.
    """
    answerable = (number for number in SIGNALS if number != but and signal.getsignal(number) is not signal.SIG_IGN)
    return {number: signal.signal(number, handler) for number in answerable}
