"""Anneals the temperature of Gumbel-softmax gates."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.gumbel_temperature:`."""

    start: float = bounded(5.0, gt=0)
    end: float = bounded(0.5, gt=0)
    shape: Literal["exponential", "cosine", "linear"] = "exponential"
    until: float = bounded(1.0, gt=0, le=1)  # share of the training at which `end` is reached


class HasTemperature(Protocol):
    """What a module offers to be annealed."""

    temperature: float


class GumbelTemperature(Callback):
    """Sets `temperature` of the module before each step, a function of the step alone.

    Args:
        start: temperature of the first step.
        end: temperature from `until` on.
        shape: of the way between.
        until: share of the training.
    """

    def __init__(self, start: float = 5.0, end: float = 0.5,
                 shape: Literal["exponential", "cosine", "linear"] = "exponential", until: float = 1.0):  # fmt: skip
        self.start, self.end, self.shape, self.until = start, end, shape, until

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module has a temperature; a run's other stages train without this callback."""
        return hasattr(module, "temperature")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the temperature of the coming step."""
        module: HasTemperature = pl_module  # type: ignore[assignment]
        module.temperature = self.at(trainer.global_step / trainer.estimated_stepping_batches)

    def at(self, time: float) -> float:
        """The temperature at a share of the training."""
        done = min(time / self.until, 1.0)
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** done
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))
        return self.start + (self.end - self.start) * done
