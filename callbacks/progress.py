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

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Lightning's, without the version number of the log."""
        return {key: value for key, value in super().get_metrics(*args, **kwargs).items() if key != "v_num"}


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
        shown = {name: trainer.callback_metrics.get(name) for name in ("train/loss", "val/top1")}
        values = ", ".join(f"{name} {float(value):.4g}" for name, value in shown.items() if value is not None)
        epochs = f"{done}/{total}" if total > 0 else "1"
        print(f"{self.stage}: epoch {epochs}, {values}, {time.monotonic() - self.started:.1f} s", flush=True)


def progress_bar(stage: str) -> Callback:
    """The bar on a terminal, lines elsewhere."""
    return StageProgressBar(stage) if sys.stdout.isatty() else EpochLines(stage)
