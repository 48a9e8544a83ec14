"""When which file is written, and that a training continued from any of them is the uninterrupted one."""

import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from lightning_vitc.callbacks.checkpoint import StageCheckpoint
from lightning_vitc.callbacks.step_seed import StepSeed


class Witness(Callback):
    """Copies `last.ckpt` each time that it is new, as a process that is killed at this moment leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps, self.best = folder, [], []
        self.seen = {}

    def look(self, *_):
        for name, steps in (("last", self.steps), ("best", self.best)):
            file = self.folder / f"{name}.ckpt"
            if file.exists() and file.stat().st_mtime_ns != self.seen.get(name):
                self.seen[name] = file.stat().st_mtime_ns
                steps.append(torch.load(file, weights_only=True)["global_step"])
                shutil.copy(file, self.folder / f"{name}-{len(steps)}.ckpt")

    on_train_batch_start = on_train_epoch_start = on_train_end = on_validation_start = look


CASES = [
    # Trainer options, every_n_steps, steps at which last.ckpt is saved; five steps an epoch
    ({}, None, [5, 10, 15]),
    ({}, 2, [2, 4, 5, 6, 8, 10, 12, 14, 15]),
    ({}, 5, [5, 10, 15]),
    ({"accumulate_grad_batches": 2}, 3, [3, 5, 6, 9, 10, 12, 15]),
    ({"val_check_interval": 2}, 2, [2, 4, 5, 6, 8, 10, 12, 14, 15]),
    ({"val_check_interval": 3, "check_val_every_n_epoch": None}, 3, [3, 5, 6, 9, 10, 12, 15]),
    ({"max_epochs": -1, "max_steps": 8}, 3, [3, 5, 6, 8]),
    ({"limit_train_batches": 3}, 2, [2, 3, 4, 6, 8, 9]),
]


@pytest.mark.parametrize(("options", "every", "saved"), CASES)
def test_saved_at_these_steps_and_exact_from_each(layer, fit, tmp_path, options, every, saved):
    options = {"max_epochs": 3} | options
    plan = [0.0, 3, 1, 5, 2, 4, 6, 3, 7, 7, 5, 8, 2, 9, 1, 9]
    whole, witness = layer(plan), Witness(tmp_path)
    fit(whole, StepSeed(0, "x"), StageCheckpoint(every), witness, **options)
    witness.look()
    assert witness.steps == saved
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    for number, step in enumerate(saved, start=1):
        again, folder = layer(plan), tmp_path / f"resumed-{number}"
        folder.mkdir()  # another folder than that of the checkpoint: a run may be moved
        fit(again, StepSeed(0, "x"), StageCheckpoint(every), default_root_dir=folder,
            ckpt_path=tmp_path / f"last-{number}.ckpt", **options)  # fmt: skip
        assert again.losses == whole.losses[len(whole.losses) - len(again.losses) :]
        assert torch.equal(again.layer.weight, whole.layer.weight)
        weights = [weight for weight, _ in whole.validated[len(whole.validated) - len(again.validated) :]]
        assert all(torch.equal(one, two) for (one, _), two in zip(again.validated, weights, strict=True))
        if (folder / "best.ckpt").exists():  # and only if a later one is better
            later = torch.load(folder / "best.ckpt", weights_only=True)
            assert later["global_step"] == best["global_step"]
        else:
            assert best["global_step"] <= step


def test_best_is_the_first_of_the_highest_scores(layer, fit, tmp_path):
    plan = [math.nan] * 21
    plan[5], plan[10], plan[15], plan[20] = 1.0, 4.0, 4.0, 3.0
    witness = Witness(tmp_path)
    fit(layer(plan), StageCheckpoint(), witness, max_epochs=4)
    assert witness.best == [5, 10]


def test_the_time_of_all_parts_is_counted(layer, fit, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lightning_vitc.callbacks.checkpoint.time.monotonic", lambda: now[0])

    class Slow(Callback):
        def on_train_batch_start(self, *_):
            now[0] += 2

    first, second = StageCheckpoint(), StageCheckpoint()
    fit(layer(), Slow(), first, max_epochs=1)
    now[0] += 1000
    fit(layer(), Slow(), second, ckpt_path=tmp_path / "last.ckpt", max_epochs=3)
    assert (first.elapsed, second.elapsed) == (10, 30)
    finished = StageCheckpoint()
    fit(layer(), Slow(), finished, ckpt_path=tmp_path / "last.ckpt", max_epochs=3)  # nothing is left to train
    assert finished.elapsed == 30


def test_a_score_that_is_no_number_saves_nothing(layer, fit, tmp_path):
    fit(layer([math.nan] * 11), StageCheckpoint())
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_sanity_check_saves_nothing(layer, fit, tmp_path):
    fit(layer([5.0] + [math.nan] * 10), StageCheckpoint(), max_steps=0)
    assert not (tmp_path / "best.ckpt").exists()


def test_logs_are_on_disk_before_the_checkpoint(layer, fit, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(SummaryWriter, "flush", lambda writer: events.append("flush"))
    monkeypatch.setattr(Trainer, "save_checkpoint", lambda trainer, path, **_: events.append(path.name))
    fit(layer([0.0] * 6), StageCheckpoint(3), logger=TensorBoardLogger(tmp_path), max_epochs=1)
    assert [event for event in events if event != "flush"] == ["last.ckpt", "best.ckpt", "last.ckpt"]
    assert all(before == "flush" for before, event in pairwise(events) if event != "flush")


@pytest.mark.parametrize(("options", "saved"), [
    ({"max_epochs": 7}, [15, 30, 35]), ({"max_epochs": -1, "max_steps": 22}, [15, 22]),
])  # fmt: skip
def test_every_few_epochs_and_at_the_end(layer, fit, tmp_path, options, saved):
    witness = Witness(tmp_path)
    fit(layer(), StageCheckpoint(every_n_epochs=3), witness, **options)
    witness.look()
    assert witness.steps == saved
