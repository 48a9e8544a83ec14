"""Signals that end a command: which they are, and one line in the place of a death without a word."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning_vitc.errors import Interrupted

# Ctrl-C, a terminal that is closed, Ctrl-\, limits of time, an end by the system, preemption by Slurm: of two that
# reach different ranks the later one counts, because a job that is put back into the queue for nothing loses less than
# one that should have been.
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def answered() -> Iterator[None]:
    """Answer signals as long as nothing better does; Ctrl-C is Python's `KeyboardInterrupt`.

    Raises:
        Interrupted: anywhere within.
    """
    process = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:  # not in a forked loader worker
            raise Interrupted(number)

    before = taken_over(stop, but=signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
