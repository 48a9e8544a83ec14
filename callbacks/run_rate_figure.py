"""Draws how often every branch runs, by block and by class, into TensorBoard."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_vitc.figures.gates import run_rates_figure
from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.run_rate_figure:`."""

    every: int = bounded(5, gt=0)  # epochs between two figures


class RunRateFigure(Callback):
    """Adds the figure after validations, from rank 0.

    Args:
        every: epochs between two figures; the last epoch has one.
    """

    def __init__(self, every: int = 5):
        self.every = every

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module counts what runs, and has anything to skip; other stages train without this callback."""
        return getattr(module, "gated_branches", False) and hasattr(module, "rates")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw from the counts of the validation that has ended."""
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or (epoch % self.every and epoch != trainer.max_epochs):
            return
        rates = pl_module.rates.compute()  # type: ignore[union-attr, operator]
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, TensorBoardLogger):
                figure = run_rates_figure(rates)
                step = trainer.global_step - 1  # the number of the step before, as Lightning's own logs have it
                logger.experiment.add_figure("run_rates", figure, step, close=False)
                figure.clear()
