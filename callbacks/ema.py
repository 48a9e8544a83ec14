"""Exponential moving average of weights and running statistics: validated, selected, exported in their place."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from lightning_vitc.networks.batch_statistics import statistics
from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.ema:`."""

    decay: float = bounded(0.9999, gt=0, lt=1)
    start_step: int = bounded(0, ge=0)  # optimizer steps before averaging starts
    every_n_steps: int = bounded(1, gt=0)


class EMA(WeightAveraging):
    """Averages parameters and statistics of batch norms: masks and other buffers stay those of the trained model.

    Args:
        decay: weight of the past.
        start_step: optimizer steps before averaging starts; the average is the trained weights until then.
        every_n_steps: optimizer steps between two updates.
    """

    def __init__(self, decay: float = 0.9999, start_step: int = 0, every_n_steps: int = 1):
        super().__init__(use_buffers=False)
        self.decay, self.start_step, self.every_n_steps = decay, start_step, every_n_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights to where the module is going to be: it is moved after this hook."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to average after the optimizer step number `step_idx`, counted from zero."""
        return step_idx is not None and (step_idx < self.start_step or step_idx % self.every_n_steps == 0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Update; the first average is a copy of the weights, and so is every one before `start_step`.

        Which it is depends on the step alone: torch's own update asks a counter on the device, and would wait for it.
        """
        step = trainer.global_step
        if step > self._latest_update_step and self.should_update(step_idx=step - 1):
            self._update(pl_module, copy=step <= max(1, self.start_step))
            self._latest_update_step = step

    @torch.no_grad()
    def _update(self, pl_module: LightningModule, copy: bool) -> None:
        assert self._average_model is not None
        average, weights = _averaged(self._average_model.module), _averaged(pl_module)
        if copy:
            torch._foreach_copy_(average, weights)
        else:
            torch._foreach_lerp_(average, weights, 1 - self.decay)
        self._average_model.n_averaged.add_(1)

    # Lightning exchanges buffers together with parameters, and saves them; those that are not averaged are the same

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the weights."""
        self._take_buffers(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the place of the weights."""
        self._take_buffers(pl_module)
        super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save both; the average is the checkpoint's `state_dict`."""
        self._take_buffers(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _take_buffers(self, pl_module: LightningModule) -> None:
        if self._average_model is not None:
            averaged = {id(tensor) for tensor in statistics(pl_module)}
            for own, current in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
                if id(current) not in averaged:
                    own.copy_(current)


def _averaged(module: nn.Module) -> list[Any]:
    return [*module.parameters(), *statistics(module)]
