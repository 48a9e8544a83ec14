"""Checkpoints are written by a GPU as they are by a CPU, and either continues from what the other has written."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda
from fitting import (
    ANSWERS,
    FREEZING,
    OF_BATCHES,
    OF_EVERY_STEP,
    OF_LOGGING,
    OF_SAVING,
    STEPS,
    batches,
    fit,
    schedules,
    trainer_on,
)
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils._pytree import tree_leaves
from trainings import scala, usdc, uvc  # of benchmarks/

from lightning_vitc.callbacks.checkpoint import StageCheckpoint
from lightning_vitc.callbacks.step_seed import StepSeed
from lightning_vitc.networks.backbone import Backbone, create_backbone

CASES: dict[str, Any] = {
    "scala, heads": partial(scala, slice="heads", granularity=0.5, s=0.5),
    "uvc": partial(uvc, gate_every=2),
    "usdc, avg-8": partial(usdc, gate_search="fixed:relu_bn"),
}
COPYING = "cuda/fitting.py:copied"
QUIET: dict[str, Any] = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)


def backbone() -> Backbone:
    torch.manual_seed(3)
    return create_backbone("deit_small_distilled_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=48,
                           depth=1, num_heads=6, num_classes=10)  # fmt: skip


class Watched(StageCheckpoint):
    """Lightning calls it last, after what watches a step."""

    def __init__(self, device: FakeCuda):
        super().__init__(every_n_steps=2)
        self.device = device

    def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
        with self.device.watched(OF_SAVING, COPYING):
            super().on_train_batch_end(*arguments, **named)


@pytest.mark.slow
def test_a_checkpoint_is_written_and_continued_on_a_cpu(tmp_path: Path) -> None:
    """With an average of the weights, which has its buffers from them; nobody waits at a step that saves nothing."""
    module = uvc(backbone(), skip="none")
    with FakeCuda() as device:
        callbacks = [*schedules(module), Watched(device)]
        trainer = trainer_on(
            device, callbacks=callbacks, enable_checkpointing=True, default_root_dir=tmp_path, limit_val_batches=0
        )
        trainer.fit(module, batches(module))
    saved: Any = trainer.strategy.saved  # type: ignore[attr-defined]
    assert len(saved) == STEPS // 2
    on_the_device = [leaf for leaf in tree_leaves(saved[0]) if isinstance(leaf, Tensor) and leaf.is_cuda]
    waits = Counter(device.waits)  # of one: nobody watches the end of the epoch
    assert waits.keys() == {OF_EVERY_STEP, OF_LOGGING, OF_BATCHES, OF_SAVING, COPYING}
    assert waits[COPYING] == len(on_the_device)
    moments = saved[0]["optimizer_states"][0]["state"].values()
    for held in (saved[0]["state_dict"], saved[0]["current_model_state"], *moments):
        assert all(tensor.is_cuda for name, tensor in held.items() if name != "step")
    again = uvc(backbone(), skip="none")
    callbacks = [StepSeed(0, "stage"), *schedules(again), StageCheckpoint()]
    trainer = Trainer(accelerator="cpu", callbacks=callbacks, max_epochs=2, limit_val_batches=0,
                      default_root_dir=tmp_path, **QUIET)  # fmt: skip
    trainer.fit(again, batches(again), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 2 * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_a_cpu_continues(case: str, tmp_path: Path) -> None:
    """With the state of optimizer, schedules and average, after half of the epochs."""
    make, method = CASES[case], case.partition(",")[0]
    module = make(backbone())
    callbacks = [StepSeed(0, "stage"), *schedules(module)]
    trainer = Trainer(accelerator="cpu", callbacks=callbacks, max_epochs=1, limit_val_batches=0,
                      enable_checkpointing=False, **QUIET)  # fmt: skip
    trainer.fit(module, batches(module))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = make(backbone())
    device = fit(again, *FREEZING.get(method, []), callbacks=schedules(again), answer=int(ANSWERS.get(method, 1)),
                 checkpoint=tmp_path / "last.ckpt", max_epochs=2)  # fmt: skip
    assert Counter(device.waits)[OF_EVERY_STEP] == STEPS - 1
    assert all(tensor.is_cuda for tensor in (*again.parameters(), *again.buffers()))
