"""A clock in a training: it counts the MACs of a step, times the steps after it, and looks at the memory."""

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from on_gpu.place import synchronize
from on_gpu.turns import turn


class MeasuredEnough(Exception):  # noqa: N818  ends a training
    """The clock has what it wants."""


class Clock(Callback):
    """Counts the MACs of a step, then times the steps after it in a few groups.

    Args:
        device: which is waited for before and after a group.
        warmup: steps that are not timed.
        size: steps of a group.
        counted: whether MACs are counted: not of compiled networks, which would not stay so.
        alone: whether it waits until the machine is its own, as times ask for and the memory of a process does not.
    """

    GROUPS = 3

    def __init__(self, device: str, warmup: int, size: int, counted: bool, alone: bool = True):
        self.device, self.warmup, self.size, self.counted = device, warmup, size, counted
        self.alone = alone
        self.macs: int | None = None
        self.seconds: list[float] = []
        self.bytes = 0
        self._done = 0
        self._counter = Macs()

    def on_train_batch_start(self, *_: Any) -> None:
        """Count the second step."""
        if self.counted and self._done == 1:
            self._counter.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        """Look at the clock."""
        if self.counted and self._done == 1:
            self._counter.__exit__(None, None, None)
            self.macs = self._counter.total
        self._done += 1
        if self._done == self.warmup:
            synchronize(self.device)
            if self.alone:
                turn()
            forget_peak(self.device)
            self._since = time.perf_counter()
        elif self._done > self.warmup and (self._done - self.warmup) % self.size == 0:
            synchronize(self.device)
            self.seconds.append((time.perf_counter() - self._since) / self.size)
            self._since = time.perf_counter()
        if len(self.seconds) == self.GROUPS:
            self.bytes = peak(self.device)
            raise MeasuredEnough


class Macs(TorchDispatchMode):
    """Counts those of matrix products and convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out) // 2
        return out


def forget_peak(device: str) -> None:
    """Begin anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int:
    """Bytes that tensors took on a GPU at most, or the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
