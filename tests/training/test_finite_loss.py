"""A loss that is no number stops the training before a weight has moved, on all processes, and says which it was."""

import json
import math
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_vitc.callbacks.checkpoint import StageCheckpoint
from lightning_vitc.data import VisionData
from lightning_vitc.methods.dense import Dense
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.pipeline.trainers import DurableCheckpointIO
from lightning_vitc.schema import DataConfig, OptimizerConfig
from lightning_vitc.training.finite_loss import FiniteLoss, NotFinite, check_weights
from lightning_vitc.training.module import StepResult

RECIPE = OptimizerConfig(lr=1e-2, weight_decay=0.1)


class Breaking(Dense):
    """A dense network with a loss of two terms, one of which is `broken` from the step (counted from 0) `at` on."""

    def __init__(self, at: int, broken: float = math.nan, rank: int = 0) -> None:
        torch.manual_seed(0)
        super().__init__(create_backbone("vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=24,
                                         depth=1, num_heads=6, num_classes=10), RECIPE)  # fmt: skip
        self.at, self.broken, self.rank, self.before, self.batches = at, broken, rank, {}, 0

    def step(self, images, targets):
        result = super().step(images, targets)
        step = self.batches
        self.batches += 1
        penalty = result.loss.new_tensor(self.broken if step >= self.at and self.global_rank == self.rank else 1.0)
        if step == self.at:
            self.before = {name: weight.clone() for name, weight in self.state_dict().items()}
        return StepResult(result.loss * penalty, {"fit": result.loss.detach(), "penalty": penalty})


class Spoiler(Callback):
    """Puts a number that is none into a weight after the third step."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 3:
            pl_module.backbone.head.bias.data[0] = math.nan


def fit(module: Dense, folder: Path, **options: Any) -> Trainer:
    options = {"max_epochs": 3, "logger": False, "callbacks": [StageCheckpoint(every_n_steps=1)]} | options
    trainer = Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, plugins=[DurableCheckpointIO()], default_root_dir=folder, limit_val_batches=0,
        **options,
    )  # fmt: skip
    config = DataConfig(name="digits", batch_size=32, num_samples=128, no_aug=True)
    trainer.fit(module, VisionData(config, img_size=8, in_chans=1, accumulate=trainer.accumulate_grad_batches))
    return trainer


def unchanged(module: Breaking) -> bool:
    return all(torch.equal(weight, module.before[name]) for name, weight in module.state_dict().items())


@pytest.mark.parametrize(("broken", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_no_weight_moves_and_step_and_term_are_named(tmp_path, broken, shown):
    module = Breaking(5, broken)
    with pytest.raises(NotFinite, match=rf"^step 5: penalty is {shown}; no weight was moved by it$"):
        fit(module, tmp_path)
    assert unchanged(module)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert all(torch.equal(weight, module.before[name]) for name, weight in saved["state_dict"].items())


def test_of_accumulated_batches_any_counts(tmp_path):
    module = Breaking(6)  # the third of four batches of the second step
    with pytest.raises(NotFinite, match=r"^step 1: penalty is nan"):
        fit(module, tmp_path, accumulate_grad_batches=4)
    assert unchanged(module)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"gradient_clip_val": 1.0}])
def test_whatever_else_happens_between_loss_and_step(tmp_path, options):
    module = Breaking(2)
    with warnings.catch_warnings(action="ignore"), pytest.raises(NotFinite):
        fit(module, tmp_path, **options)
    assert unchanged(module)


def test_a_loss_without_terms_is_called_loss():
    check = FiniteLoss()
    check.note({"loss": torch.tensor(math.nan)})
    with pytest.raises(NotFinite, match=r"^step 3: loss is nan"):
        check.check(3)
    check.check(4)  # what was noted belonged to that step


def test_a_term_that_is_only_shown_may_be_anything():
    check = FiniteLoss()
    check.note({"shown": torch.tensor(math.inf), "loss": torch.tensor(1.0)})
    check.check(0)


def test_lost_weights_are_not_saved(tmp_path):
    """Where the gradient of a finite loss is not finite, the next loss would tell, and the save may come before it."""
    module = Breaking(99)
    with pytest.raises(NotFinite, match=r"^step 3: backbone\.head\.bias is not finite; such weights are not saved$"):
        fit(module, tmp_path, callbacks=[Spoiler(), StageCheckpoint(every_n_steps=1)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    check_weights(Breaking(0), 0)


RANK = """
import json, os, sys
os.environ.update(environment)
sys.path.insert(0, os.path.dirname(result))
import this_file
from pathlib import Path
from lightning_vitc.training.finite_loss import NotFinite
module = this_file.Breaking(2, rank=1)
try:
    this_file.fit(module, Path(folder), devices=2, strategy="ddp")
except NotFinite as failure:
    message = str(failure)
with open(result, "w") as file:
    json.dump([message, this_file.unchanged(module)], file)
"""


@pytest.mark.slow
def test_all_processes_stop_in_the_step_of_the_one(fork, tmp_path):
    """The second rank's loss breaks; the first, whose own is finite, says the same and has moved nothing either."""
    (tmp_path / "this_file.py").symlink_to(__file__)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = dict(NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    files = [tmp_path / "0.json", tmp_path / "1.json"]
    ranks = [
        fork(RANK, environment=common | {"LOCAL_RANK": str(rank)}, result=str(file), folder=str(tmp_path))
        for rank, file in enumerate(files)
    ]
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    told = [json.loads(file.read_text()) for file in files]
    assert told == [["step 2: penalty is nan; no weight was moved by it", True]] * 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


# The command


def test_it_is_one_line_and_the_last_good_checkpoint_stays(vitc, tiny, read_metrics):
    every = ("callbacks.checkpoint.every_n_steps=1", "trainer.log_every_n_steps=1")
    arguments = ("train", "scala_digits", *tiny, "teacher.train=false", "optimizer.lr=1e30", *every)
    done = vitc(*arguments)
    assert done.code == 1
    assert done.error.count("\n") == 1, done.error
    assert done.error.startswith("error: stage scala, step ")
    assert "/train_loss is nan; no weight was moved by it; the last checkpoint is whole; start over" in done.error
    run = vitc.place / "runs" / "scala_digits" / "default"
    step = int(done.error.split("step ")[1].split(":")[0])
    assert torch.load(run / "checkpoints" / "scala" / "last.ckpt", weights_only=True)["global_step"] == step
    assert read_metrics(run)[-1]["step"] == step, "the log shows it"
    again = vitc(*arguments)
    assert (again.code, again.error) == (1, done.error)
