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
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from lightning_vitc.callbacks.ema import EMA
from lightning_vitc.callbacks.gate_freezing import GateFreezing
from lightning_vitc.callbacks.gate_staging import GateStaging
from lightning_vitc.callbacks.gumbel_temperature import GumbelTemperature
from lightning_vitc.callbacks.progressive_block_dropping import ProgressiveBlockDropping
from lightning_vitc.callbacks.pruning_schedule import PruningSchedule
from lightning_vitc.callbacks.step_seed import StepSeed
from lightning_vitc.callbacks.width_sampling import WidthSampling
from lightning_vitc.methods.uvc import UNDECIDED
from lightning_vitc.networks.slicing import slice_width

STEPS = 4
OF_EVERY_STEP = "training/finite_loss.py:check"  # it waits for the forward pass alone, see `FiniteLoss`
OF_LOGGING = "training/module.py:_write"  # at every step that is logged
OF_SAVING = "training/finite_loss.py:check_weights"  # once for all of them; then their values are copied
OF_BATCHES = "utilities/apply_func.py:batch_to"  # that are not pinned here; `test_batches` has those that are
OF_FP16 = "precision/amp.py:optimizer_step"  # torch's scaler asks whether the step overflowed
ANSWERS = {"uvc": UNDECIDED, "usdc": -1}  # not decided yet; of the candidates the last one
FREEZING = {  # once a run: the gates are decided on the host, and the choice of their networks is looked up
    "uvc": ["methods/uvc.py:_decide_gates", "budget/gates.py:decide", "methods/uvc.py:_frozen_gates"],
    "usdc": ["dynamic/gate_selection.py:freeze"],
}


class Accelerator(CPUAccelerator):
    """Sets up any device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing."""


class Strategy(SingleDeviceStrategy):
    """Leaves the module where it is: fake weights cannot come back.

    Attributes:
        saved: checkpoints, with their tensors where they were.
    """

    def __init__(self, device: torch.device, **options: Any):
        super().__init__(device, Accelerator(), **options)
        self.saved: list[dict[str, Any]] = []

    def load_checkpoint(self, *args: Any, **options: Any) -> dict[str, Any]:
        """As it is on the disk: values of the host."""
        with unset_fake_temporarily():
            return super().load_checkpoint(*args, **options)

    def save_checkpoint(self, checkpoint: dict[str, Any], *args: Any, **options: Any) -> None:
        """With values: those that the host gets by copying."""
        self.saved.append(checkpoint)
        found = tree_map_only(FakeTensor, copied, checkpoint)
        with unset_fake_temporarily():
            super().save_checkpoint(found, *args, **options)

    def teardown(self) -> None:
        """Nothing."""


def copied(tensor: Tensor) -> Tensor:
    """To the host, which waits for it."""
    return tensor.cpu()


class Watching(Callback):
    """Watches every step but the first, in which Lightning moves what it logs with, up to the next; and validations."""

    def __init__(self, device: FakeCuda, allowed: Sequence[str]):
        self.device, self.allowed, self.watch = device, allowed, ExitStack()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.watch.close()
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed:
            self.watch.enter_context(self.device.watched(*self.allowed))

    def on_validation_start(self, *_: Any) -> None:
        self.watch.close()

    def on_validation_batch_start(self, *_: Any) -> None:
        self.watch.enter_context(self.device.watched())

    def on_validation_batch_end(self, *_: Any) -> None:
        self.watch.close()

    def on_train_epoch_end(self, *_: Any) -> None:
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


def schedules(module: Any) -> list[Any]:
    """Warm-up, search and frozen gates within four steps, for those that have them."""
    made = [PruningSchedule(0.2, 0.8), GateStaging(0.3, 0.7), GateFreezing(0.7), GumbelTemperature(), WidthSampling(),
            ProgressiveBlockDropping(), EMA(0.9)]  # fmt: skip
    return [callback for callback in made if getattr(callback, "serves", lambda _: True)(module)]


def fit(
    module: LightningModule, *allowed: str, precision: str = "32-true", callbacks: Sequence[Callback] = (),
    soft: bool = False, answer: int = 1, checkpoint: Path | None = None, steps: int = STEPS, **options: Any,
) -> FakeCuda:  # fmt: skip
    """Train for some steps, the last of which is logged, and validate; the device knows where the host has waited.

    From a checkpoint on, if there is one.
    """
    device = FakeCuda(answer)
    slice_width.cache_clear()  # its indices remember their copies on another device that is not there
    with device:
        trainer = trainer_on(device, allowed, precision, callbacks, log_every_n_steps=steps, **options)
        trainer.fit(module, batches(module, soft, steps), batches(module, count=1), ckpt_path=checkpoint)
    device.waits = [place for place in device.waits if place != OF_BATCHES]
    return device


def trainer_on(
    device: FakeCuda, allowed: Sequence[str] = (), precision: str = "32-true", callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:  # fmt: skip
    """A trainer of a stage, as far as its device matters."""
    plugin = Precision() if precision == "32-true" else MixedPrecision(precision, "cuda")  # type: ignore[arg-type]
    watching = Watching(
        device, [OF_EVERY_STEP, OF_LOGGING, OF_BATCHES, *allowed, *([OF_FP16] if precision == "16-mixed" else [])]
    )
    settings = dict(max_epochs=1, gradient_clip_val=1.0, num_sanity_val_steps=0, log_every_n_steps=STEPS,
                    logger=DummyLogger(), enable_checkpointing=False, enable_progress_bar=False,
                    enable_model_summary=False)  # fmt: skip
    return Trainer(
        strategy=Strategy(CUDA), plugins=[plugin], callbacks=[StepSeed(0, "stage"), *callbacks, watching],
        **{**settings, **options},
    )  # fmt: skip
