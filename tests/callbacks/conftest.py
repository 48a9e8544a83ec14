"""A module of one layer and a Trainer around it: what a callback does shows in a few numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.data import VisionData
from lightning_vitc.schema import DataConfig


class Layer(LightningModule):
    """A linear model with dropout and a mask; `plan` says the score of each validation."""

    def __init__(self, plan: list[float] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 10)
        self.register_buffer("mask", torch.zeros((), dtype=torch.long))
        self.plan, self.validated, self.losses = plan or [], [], []

    def training_step(self, batch, batch_idx):
        images, targets = batch
        loss = torch.nn.functional.cross_entropy(
            torch.nn.functional.dropout(self.layer(images.flatten(1)), 0.2), targets
        )
        self.losses.append(float(loss.detach()))
        self.mask += 1
        self.log("train/loss", loss, logger=False)
        return loss

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.validated.append((self.layer.weight.detach().clone(), int(self.mask)))

    def on_validation_epoch_end(self):
        step = self.trainer.global_step
        self.log("val/top1", self.plan[step] if step < len(self.plan) else 0.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Trace(Callback):
    """The weights after every optimizer step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append(pl_module.layer.weight.detach().clone())


@pytest.fixture
def layer() -> type[Layer]:
    return Layer


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Trainer]:
    """Train on digits, five steps an epoch, with `tmp_path` as the stage's folder."""

    def fit(module: LightningModule, *callbacks: Callback, ckpt_path: Path | None = None, **options: Any) -> Trainer:
        options = {"max_epochs": 2, "logger": False, "default_root_dir": tmp_path} | options
        trainer = Trainer(
            accelerator="cpu", enable_checkpointing=any("Checkpoint" in type(one).__name__ for one in callbacks),
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            use_distributed_sampler=False, callbacks=list(callbacks), **options,
        )  # fmt: skip
        accumulate = trainer.accumulate_grad_batches
        data = DataConfig(name="digits", batch_size=200, num_samples=1000, no_aug=True, eval_batch_size=400)
        data_module = VisionData(data, img_size=8, in_chans=1, accumulate=accumulate)
        trainer.fit(module, data_module, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return fit
