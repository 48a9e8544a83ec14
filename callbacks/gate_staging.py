"""Opens and closes the training of skip gates, so that pruning and skipping take turns at the budget."""

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.errors.messages import counted
from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.gate_staging:`; times are shares of the training."""

    start: float = bounded(0.3, ge=0, lt=1)  # before it every gate runs
    end: float = bounded(0.7, gt=0, le=1)  # from here on gates are what they are, without noise

    def validate(self) -> None:
        """Start before end; a violation is a ValueError naming the key."""
        if self.start >= self.end:
            raise ValueError(f"callbacks.gate_staging.start: {self.start:g} must be less than end = {self.end:g}")


class HasGates(Protocol):
    """What a module offers to have its gates staged: `closed`, `training` or `frozen`, and how often they move."""

    gate_stage: str
    gate_every: int


class GateStaging(Callback):
    """Sets `gate_stage` of the module before each step, a function of the step alone.

    Args:
        start: share of the training from which gates are sampled and trained.
        end: share of the training from which they are frozen and deterministic.
    """

    def __init__(self, start: float = 0.3, end: float = 0.7):
        self.start, self.end = start, end

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module has gates; a run's other stages train without this callback."""
        return hasattr(module, "gate_stage")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of gates that are trained for fewer steps than lie between two of their updates."""
        module: HasGates = pl_module  # type: ignore[assignment]
        total = int(trainer.estimated_stepping_batches)
        trained = [step for step in range(1, total + 1) if self.stage(step / total) == "training"]
        if trained and not any(step % module.gate_every == 0 for step in trained):
            warnings.warn(
                f"method.gate_every={module.gate_every} is more than the {counted(len(trained), 'step')} in which "
                "gates are trained (callbacks.gate_staging): they never move; set it to fewer steps",
                stacklevel=2,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the stage of the coming step."""
        module: HasGates = pl_module  # type: ignore[assignment]
        module.gate_stage = self.stage((trainer.global_step + 1) / trainer.estimated_stepping_batches)

    def stage(self, time: float) -> str:
        """What gates are at a share of the training."""
        return "closed" if time <= self.start else "training" if time <= self.end else "frozen"
