"""Draws accuracy over MACs of the validated networks into TensorBoard."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_vitc.figures.accuracy import accuracy_over_macs
from lightning_vitc.networks import costs


class AccuracyFigure(Callback):
    """Adds the figure after every validation, from rank 0."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw from the metrics that were just logged."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        points = [
            (variant.name, costs.macs(variant.spec), float(metrics[f"{variant.name}/val_top1"]))
            for variant in pl_module.variants()  # type: ignore[operator]
            if f"{variant.name}/val_top1" in metrics
        ]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and len(points) > 1:
                figure = accuracy_over_macs({"validation": points})
                step = trainer.global_step - 1  # the number of the step before, as Lightning's own logs have it
                logger.experiment.add_figure("accuracy_over_macs", figure, step, close=False)
                figure.clear()
