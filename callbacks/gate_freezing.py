"""Ends the search among gate networks in the middle of a training."""

from dataclasses import dataclass
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.gate_freezing:`."""

    at: float = bounded(0.5, ge=0, le=1)  # share of the training from which every branch has one gate network


class SelectsGates(Protocol):
    """What a module offers to have its search among gate networks ended."""

    selecting: bool


class GateFreezing(Callback):
    """Sets `selecting` of the module before each step, a function of the step alone.

    Args:
        at: share of the training from which the choice is made.
    """

    def __init__(self, at: float = 0.5):
        self.at = at

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module selects gate networks; a run's other stages train without this callback."""
        return hasattr(module, "selecting")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set it for the coming step."""
        module: SelectsGates = pl_module  # type: ignore[assignment]
        module.selecting = trainer.global_step / trainer.estimated_stepping_batches < self.at
