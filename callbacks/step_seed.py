"""Makes every random stream of a training step a function of the step, so that a resume is exact."""

import zlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Seeds torch before each batch from (seed, stage, batch number, rank): dropout, stochastic depth, noise.

    Args:
        seed: of the run.
        stage: name of the stage of the run.
    """

    def __init__(self, seed: int, stage: str):
        self.base = f"{stage} {seed}"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the coming step."""
        text = f"{self.base} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
        torch.manual_seed(zlib.crc32(text.encode()))
