"""Stopping a training whose loss is no number, before a weight is moved by it."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from lightning_vitc.errors import RunFailure


class NotFinite(RunFailure):
    """A loss or a weight that is infinite or no number."""


class FiniteLoss:
    """Notes the losses of a step when they are computed, and refuses the optimizer step where one is not finite.

    The host has to know before it enqueues the optimizer step, but the device must not run dry while it waits. So the
    losses are copied to it by a stream of their own as soon as the method's step has computed them, and read once all
    of the backward pass is enqueued, which the device still has to do then. Of methods that differentiate their loss in
    parts (Scala, and the few-shot ones by the candidate) that is the backward pass of the last part alone. A loss that
    is not finite on one process is so on all, by a mean over processes of these few numbers; all refuse in one step.

    Attributes:
        last: the loss of the last step that was checked, on the host.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[list[str], Tensor, Any]] = []
        self._stream: Any = None
        self.last: float | None = None

    def note(self, losses: Mapping[str, Tensor], processes: int = 1) -> None:
        """Scalars by name, `loss` being what is minimized and the others what it is made of."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        if not values.is_cuda:
            self._noted.append((list(losses), _averaged(values, processes), None))
            return
        self._stream = self._stream or torch.cuda.Stream(values.device)
        self._stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(self._stream):
            values.record_stream(self._stream)
            copy = torch.empty(len(losses), pin_memory=True).copy_(_averaged(values, processes), non_blocking=True)
        self._noted.append((list(losses), copy, self._stream.record_event()))

    def check(self, step: int) -> None:
        """Before the optimizer step number `step`, from 0.

        Raises:
            NotFinite: naming the step, and the first of the losses that is not finite.
        """
        noted, self._noted = self._noted, []
        for names, copy, copied in noted:
            if copied is not None:
                copied.synchronize()
            values = dict(zip(names, copy.tolist(), strict=True))
            self.last = values["loss"]
            wrong = [name for name in names if not abs(values[name]) < float("inf")]
            if "loss" in wrong:
                named = next((name for name in wrong if name != "loss"), "loss")
                raise NotFinite(f"step {step}: {named} is {values[named]}; no weight was moved by it")


def check_weights(module: nn.Module, step: int) -> None:
    """Before a checkpoint is written, which must not follow a good one with weights that are lost.

    Raises:
        NotFinite: naming the first parameter that is not finite.
    """
    names, parameters = zip(*module.named_parameters(), strict=True)
    finite = torch.stack([parameter.isfinite().all() for parameter in parameters]).tolist()
    if not all(finite):
        raise NotFinite(f"step {step}: {names[finite.index(False)]} is not finite; such weights are not saved")


def _averaged(values: Tensor, processes: int) -> Tensor:
    if processes > 1:
        torch.distributed.all_reduce(values.div_(processes))
    return values
