"""Moments of what enters outlets, summed up batch by batch in double precision: no activations are kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.folding import Joint


class Moments:
    """Of rows a [n, P] and b [n, K].

    Args:
        first, second: P and K.
        device: where they are summed up.
        apart: b is no part of a, so that its own products are needed.
    """

    def __init__(self, first: int, second: int, device: torch.device, apart: bool = False):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count, self.sum, self.sum_second = zeros(1), zeros(first), zeros(second)
        self.cross, self.own = zeros(first, second), zeros(second, second) if apart else None

    def add(self, first: Tensor, second: Tensor) -> None:
        """Rows of a batch."""
        a, b = first.double(), second.double()
        self.count += len(a)
        self.sum += a.sum(0)
        self.sum_second += b.sum(0)
        self.cross.addmm_(a.T, b)
        if self.own is not None:
            self.own.addmm_(b.T, b)

    def joint(self, calibration: Calibration, kept: Tensor) -> Joint:
        """Means and covariances over the images of all processes; b are the columns `kept` of a, unless apart."""
        calibration.total(self.count, self.sum, self.sum_second, self.cross)
        mean, second = self.sum / self.count, self.sum_second / self.count
        cross = self.cross / self.count - torch.outer(mean, second)
        if self.own is None:
            return Joint(mean, second, cross, cross[kept])
        calibration.total(self.own)
        return Joint(mean, second, cross, self.own / self.count - torch.outer(second, second))


@contextmanager
def watched(modules: Mapping[Any, Any], see: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """While it lasts, `see(key, input)` is called for what enters each of the modules."""

    def hook(key: Any) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda _, inputs: see(key, inputs[0])

    handles = [module.register_forward_pre_hook(hook(key)) for key, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
