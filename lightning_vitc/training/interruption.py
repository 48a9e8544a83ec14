"""Stopping a training from outside: a signal is noted, and answered at the end of a batch, on all ranks alike."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_vitc.errors import Interrupted
from lightning_vitc.errors.signals import SIGNALS, end, taken_over

CHECK_EVERY = 10  # optimizer steps between two questions to the other ranks, each of which waits for the device
BEFORE_EXIT = 5  # seconds that the first rank has to put the job back: once one exits, Slurm ends the others
_leaving = False  # a preempted job: Slurm ends by SIGTERM what it puts back into the queue, and all is saved by then


class Interruption:
    """Notes the first signal between `listen` and `ignore`; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None  # by this rank
        self._agreed: int | None = None  # by any rank, since they were last asked
        self._before: dict[int, Any] = {}
        self._process = 0

    def listen(self) -> None:
        """Take the signals over from whoever has them."""
        self._process = os.getpid()
        self._before = taken_over(self._note)

    def ignore(self) -> None:
        """Give them back."""
        _give_back(self._before)
        self._before = {}

    def agreed(self, trainer: Any, now: bool = False) -> bool:
        """Whether a rank has received a signal; all ranks ask at the same steps and get the same answer.

        Args:
            trainer: of the ranks.
            now: ask the other ranks at this step, whichever it is.
        """
        if trainer.world_size > 1 and (now or trainer.global_step % CHECK_EVERY == 0):
            own = 0 if self.received is None else 1 + SIGNALS.index(self.received)
            found = trainer.strategy.reduce(torch.tensor(own, device=trainer.strategy.root_device), reduce_op="max")
            self._agreed = SIGNALS[int(found) - 1] if int(found) else None
        elif trainer.world_size == 1:
            self._agreed = self.received
        return self._agreed is not None

    def stop(self, trainer: Any) -> Interrupted:
        """What to raise once everything is saved; in a Slurm job that is preempted, it is put back into the queue."""
        number = self._agreed or signal.SIGTERM
        if _is_preemption(number):
            _leave(trainer.is_global_zero)
            trainer.strategy.barrier()  # or the first rank to exit has the others ended, before the job is put back
        self.ignore()
        return Interrupted(number, f"after step {trainer.global_step}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked loader worker: its parent decides
            return
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number


@contextmanager
def between_stages() -> Iterator[None]:
    """Outside of a training a signal ends the run at once: what is finished is recorded, and nothing is half written.

    Raises:
        Interrupted: in the middle of what is within; a training answers its signals itself.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process or _leaving:  # not in a forked loader worker
            return
        if _is_preemption(number):
            first = getattr(rank_zero_only, "rank", 0) == 0
            _leave(first)
            time.sleep(0 if first else BEFORE_EXIT)  # a barrier is not for a signal's handler
        end(number, frame, "between two stages")

    before = taken_over(stop, but=signal.SIGINT)
    try:
        yield
    finally:
        _give_back(before)


def _give_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_IGN if _leaving and number == signal.SIGTERM else handler)


def _is_preemption(number: int) -> bool:
    return number == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ


def _leave(first: bool) -> None:
    global _leaving  # noqa: PLW0603, of the process, like the handlers of its signals
    _leaving = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if first:
        requeue()


def requeue() -> None:
    """Ask Slurm to run this job again, from its start: it continues by its checkpoint."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = f"scontrol cannot be run ({error.strerror})"
    said = f"was not requeued: {problem}" if problem else "is requeued"
    print(f"job {job} {said}", file=sys.stderr, flush=True)
