"""Lowers the target of a budgeted search from dense to the budget."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.pruning_schedule:`; times are shares of the training."""

    start: float = bounded(0.1, ge=0, lt=1)  # before it nothing is pruned
    end: float = bounded(0.7, gt=0, le=1)  # from here on the target is the budget
    shape: Literal["cubic", "linear", "step"] = "cubic"

    def validate(self) -> None:
        """Start before end; a violation is a ValueError naming the key."""
        if self.start >= self.end:
            raise ValueError(f"callbacks.pruning_schedule.start: {self.start:g} must be less than end = {self.end:g}")


class HasTarget(Protocol):
    """What a module offers to be scheduled: ratios of the dense cost."""

    final_ratio: float
    target_ratio: float
    searching: bool


class PruningSchedule(Callback):
    """Sets `searching` and `target_ratio` of the module before each step, a function of the step alone.

    Args:
        start: share of the training after which the search starts.
        end: share of the training at which the target has come down to the budget.
        shape: `cubic` (fast first, as in Zhu & Gupta 2017), `linear`, or `step`: the budget at once.
    """

    def __init__(self, start: float = 0.1, end: float = 0.7, shape: Literal["cubic", "linear", "step"] = "cubic"):
        self.start, self.end, self.shape = start, end, shape

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module has a target; a run's other stages train without this callback."""
        return hasattr(module, "target_ratio")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the target of the coming step; the first step of the search already asks for less than dense."""
        module: HasTarget = pl_module  # type: ignore[assignment]
        time = (trainer.global_step + 1) / trainer.estimated_stepping_batches
        module.searching = time > self.start
        module.target_ratio = 1 - (1 - module.final_ratio) * self.progress(time)

    def progress(self, time: float) -> float:
        """How far the target has come down, 0 to 1, at a share of the training."""
        done = min(max((time - self.start) / (self.end - self.start), 0.0), 1.0)
        return {"linear": done, "cubic": 1 - (1 - done) ** 3, "step": float(done > 0)}[self.shape]
