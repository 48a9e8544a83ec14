"""Saves the state to continue from, and the best weights so far."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_vitc.errors import RunFailure
from lightning_vitc.schema import bounded
from lightning_vitc.training.finite_loss import check_weights
from lightning_vitc.training.interruption import Interruption


@dataclass
class Arguments:
    """Keys of `callbacks.checkpoint:`."""

    every_n_steps: int | None = bounded(None, gt=0)  # optimizer steps between two saves within an epoch
    every_n_epochs: int = bounded(1, gt=0)  # for epochs that take less time than a save; the last one is always saved


class StageCheckpoint(Checkpoint):
    """Writes `last.ckpt` after every epoch, or every few, and `best.ckpt` after a validation that beats all before.

    A signal to stop (Ctrl-C, SIGTERM, Slurm's preemption) is answered at the end of the batch: saved, then raised as
    `Interrupted`.

    They are written into the trainer's `default_root_dir`, the folder of the stage; nothing in the state depends
    on where that is, so a run may be moved. Lightning calls this callback after all others: their part of a
    step, such as averaging its weights, is in the file.

    Args:
        every_n_steps: also write `last.ckpt` in mid-epoch, every so many optimizer steps.
        every_n_epochs: epochs between two writes of `last.ckpt`; the last epoch is always written.

    A module that has more to hold than its accuracy implements `score(metrics)`, higher is better.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_epochs: int = 1):
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.best = -math.inf
        self.seconds = 0.0
        self.interruption = Interruption()
        self._started: float | None = None
        self._after_validation = False
        self._stopping = False

    @property
    def elapsed(self) -> float:
        """Seconds of training that led to where it is now; what an interruption lost is not counted."""
        return self.seconds if self._started is None else self.seconds + time.monotonic() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and answer signals from now on."""
        self._started = time.monotonic()
        self.interruption.listen()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop both."""
        self.seconds, self._started = self.elapsed, None
        self.interruption.ignore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave signals to others."""
        self.interruption.ignore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in mid-epoch; where validation follows, after it, or a resumed run would leave it out."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._stopping = self._stopping or self.interruption.agreed(trainer)
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if trainer.is_last_batch or not (due or self._stopping):
            return
        self._after_validation = _validates(trainer, batch_idx)
        if not self._after_validation:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save weights that are better than all before."""
        score = float(getattr(pl_module, "score", top1)(trainer.callback_metrics))
        if score > self.best and not trainer.sanity_checking:
            self.best = score
            self._save(trainer, "best.ckpt")
        if self._after_validation:
            self._after_validation = False
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the epoch."""
        done = trainer.current_epoch + 1
        ends = done == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if ends or done % self.every_n_epochs == 0 or trainer.should_stop or self._stopping:
            # What came during the validation: the next batch, which would answer it, may be of another stage.
            self._stopping = self._stopping or self.interruption.agreed(trainer, now=True)
            self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The best score, and the time it took to get here."""
        return {"best": self.best, "seconds": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self.best, self.seconds = state_dict["best"], state_dict.get("seconds", 0.0)

    def _save_last(self, trainer: Trainer) -> None:
        self._save(trainer, "last.ckpt")
        if self._stopping:
            raise self.interruption.stop(trainer)

    def _save(self, trainer: Trainer, name: str) -> None:
        """By the first process; where it fails, all processes stop.

        Raises:
            RunFailure: where the weights are not finite, or the disk does not take them.
        """
        check_weights(trainer.lightning_module, trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.flush()  # a resumed run logs again what comes after the checkpoint, no more
        failure = None
        try:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / name, weights_only=False)
        except RunFailure as error:
            failure = error
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the others wait
        if trainer.strategy.reduce_boolean_decision(failure is not None, all=False):
            raise failure or RunFailure("the first process could not save")


def top1(metrics: Mapping[str, Tensor]) -> Tensor | float:
    """The mean validation accuracy, where there was a validation."""
    return metrics.get("val/top1", math.nan)


def _validates(trainer: Trainer, batch_idx: int) -> bool:
    """Whether validation runs after this batch, which is not the last of its epoch."""
    number = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (number + 1) % (trainer.val_check_batch or math.inf) == 0
