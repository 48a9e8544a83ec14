"""The live progress bar, or a line an epoch where the output is no terminal."""

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme


class StageProgressBar(RichProgressBar):
    """Lightning's rich bar with the stage in front of the epoch.

    Args:
        stage: name of the stage.
    """

    def __init__(self, stage: str):
        super().__init__(leave=False, theme=RichProgressBarTheme(metrics_format=".3g"))
        self.stage = stage

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.stage}: {super()._get_train_description(current_epoch)}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Lightning's, without the version number of the log, by names that tell a mean from a value."""
        found = super().get_metrics(trainer, pl_module)
        known = {**_loss(pl_module), **found}
        return {shown(key, pl_module): value for key, value in known.items() if key != "v_num"}


def shown(metric: str, module: LightningModule) -> str:
    """The name of a metric: `val/top1` is the mean where several networks are validated, which is said."""
    count = len(getattr(module, "val_metrics", ()))
    return f"{metric} (mean of {count})" if metric == "val/top1" and count > 1 else metric


def _loss(module: LightningModule) -> dict[str, float]:
    """The host's, which it has read already: to log it would be to wait for the device, at the end of every step."""
    last = getattr(getattr(module, "finite_loss", None), "last", None)
    return {} if last is None else {"train/loss": last}


LINES = 100  # at most about so many a stage


class EpochLines(Callback):
    """Prints a line at the end of each epoch, or of every few where there are many.

    Args:
        stage: name of the stage.
    """

    def __init__(self, stage: str):
        self.stage, self.started = stage, time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print from rank 0."""
        total, done = trainer.max_epochs or 0, trainer.current_epoch + 1
        if not trainer.is_global_zero or (done != total and done % max(1, total // LINES)):
            return
        found = _loss(pl_module) | {name: trainer.callback_metrics.get(name) for name in ("val/top1",)}
        known = {shown(name, pl_module): value for name, value in found.items() if value is not None}
        values = ", ".join(f"{name} {float(value):.4g}" for name, value in known.items())
        epochs = f"{done}/{total}" if total > 0 else f"{done}"
        print(f"{self.stage}: epoch {epochs}, {values}, {time.monotonic() - self.started:.1f} s", flush=True)


def progress_bar(stage: str) -> Callback:
    """The bar on a terminal, lines elsewhere."""
    return StageProgressBar(stage) if sys.stdout.isatty() else EpochLines(stage)
