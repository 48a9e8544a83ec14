"""Whole trainings by Lightning on the device that is not there."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from fake_cuda import CUDA, FakeCuda
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils.data import DataLoader

from lightning_vitc.callbacks.step_seed import StepSeed
from lightning_vitc.networks.slicing import slice_width

STEPS = 4
OF_EVERY_STEP = "training/finite_loss.py:check"  # it waits for the forward pass alone, see `FiniteLoss`
OF_LOGGING = "training/module.py:_write"  # at every step that is logged
OF_FP16 = "precision/amp.py:optimizer_step"  # torch's scaler asks whether the step overflowed


class Accelerator(CPUAccelerator):
    """Sets up any device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing."""


class Strategy(SingleDeviceStrategy):
    """Leaves the module where it is: fake weights cannot come back."""

    def __init__(self, device: torch.device, **options: Any):
        super().__init__(device, Accelerator(), **options)

    def load_checkpoint(self, *args: Any, **options: Any) -> dict[str, Any]:
        """As it is on the disk: values of the host."""
        with unset_fake_temporarily():
            return super().load_checkpoint(*args, **options)

    def teardown(self) -> None:
        """Nothing."""


class Watching(Callback):
    """Watches every step but the first, in which Lightning moves what it logs with."""

    def __init__(self, device: FakeCuda, allowed: Sequence[str]):
        self.device, self.allowed, self.watch = device, allowed, ExitStack()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed:
            self.watch.enter_context(self.device.watched(*self.allowed))

    def on_train_batch_end(self, *_: Any) -> None:
        self.watch.close()


def batches(module: Any, soft: bool = False, count: int = STEPS, images: int = 16) -> DataLoader:
    """Random images of the module's network, and classes or probabilities of them."""
    spec = module.backbone.spec
    drawn = torch.Generator().manual_seed(0)
    targets = torch.arange(images) % spec.num_classes
    return DataLoader(
        [(torch.randn(images, spec.in_chans, *spec.img_size, generator=drawn),
          torch.nn.functional.one_hot(targets, spec.num_classes).float() if soft else targets)
         for _ in range(count)], batch_size=None,
    )  # fmt: skip


def fit(
    module: LightningModule, *allowed: str, precision: str = "32-true", callbacks: Sequence[Callback] = (),
    soft: bool = False, answer: int = 1, checkpoint: Path | None = None, **options: Any,
) -> FakeCuda:  # fmt: skip
    """Train for four steps, the last of which is logged, and validate; the device knows where the host has waited.

    From a checkpoint on, if there is one.
    """
    device = FakeCuda(answer)
    slice_width.cache_clear()  # its indices remember their copies on another device that is not there
    with device:
        trainer = trainer_on(device, allowed, precision, callbacks, **options)
        trainer.fit(module, batches(module, soft), batches(module, count=1), ckpt_path=checkpoint)
    return device


def trainer_on(
    device: FakeCuda, allowed: Sequence[str] = (), precision: str = "32-true", callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:  # fmt: skip
    """A trainer of a stage, as far as its device matters."""
    plugin = Precision() if precision == "32-true" else MixedPrecision(precision, "cuda")  # type: ignore[arg-type]
    watching = Watching(device, [OF_EVERY_STEP, OF_LOGGING, *allowed, *([OF_FP16] if precision == "16-mixed" else [])])
    settings = dict(max_epochs=1, gradient_clip_val=1.0, num_sanity_val_steps=0, log_every_n_steps=STEPS,
                    logger=DummyLogger(), enable_checkpointing=False, enable_progress_bar=False,
                    enable_model_summary=False)  # fmt: skip
    return Trainer(
        strategy=Strategy(CUDA), plugins=[plugin], callbacks=[StepSeed(0, "stage"), *callbacks, watching],
        **{**settings, **options},
    )  # fmt: skip
