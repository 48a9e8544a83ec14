"""What leaves no batch is refused, in the words of its key, as Lightning would count; nothing else is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.connectors.data_connector import _parse_num_batches
from lightning.pytorch.trainer.states import RunningStage
from PIL import Image

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.pipeline.limits import check_batch_norms, check_limits, must_leave_a_batch
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import TrainerConfig

STAGES = {"train": RunningStage.TRAINING, "val": RunningStage.VALIDATING, "test": RunningStage.TESTING}


@pytest.mark.parametrize("batches", [1, 3, 7, 100])
@pytest.mark.parametrize("limit", [None, 1, 5, 0, 0.0, 0.001, 1 / 3, 0.3333, 1 / 7, 0.01, 0.0099, 0.5, 1.0])
@pytest.mark.parametrize("stage", STAGES)
def test_as_lightning_counts(batches: int, limit: float | None, stage: str) -> None:
    try:
        _parse_num_batches(STAGES[stage], batches, 1.0 if limit is None else limit)
    except MisconfigurationException:
        with pytest.raises(UserError, match=rf"^trainer\.key: {limit:g} of "):
            must_leave_a_batch("key", limit, batches, stage)
    else:
        must_leave_a_batch("key", limit, batches, stage)


class Data:
    """Stands for a data module: batches of train, val and test, for one process and for several."""

    def __init__(self, train: int, val: int, test: int, classes: int = 2) -> None:
        self.counts, self.num_classes = {"train": train, "val": val, "test": test}, classes

    def batch_counts(self, world_size: int) -> dict[str, int]:
        return {name: -(-count // world_size) for name, count in self.counts.items()}


def run_of(data: Data, teacher: Data | None = None, **trainer: Any) -> Any:
    experiment = SimpleNamespace(
        trainer=TrainerConfig(**trainer), teacher=SimpleNamespace(train=teacher is not None),
        data=SimpleNamespace(root="pictures"),
    )  # fmt: skip
    return SimpleNamespace(data=data, experiment=experiment, teacher_recipe=lambda: (teacher, None))


@pytest.mark.parametrize(
    ("data", "trainer", "message"),
    [
        (Data(10, 4, 6, classes=1), {}, "data.root: pictures has one class; a classifier needs two or more"),
        (Data(10, 4, 6), {"limit_train_batches": 0.09},
         "trainer.limit_train_batches: 0.09 of the 10 train batches is less than one; give a number of batches, such "
         "as 1"),
        (Data(10, 1, 6), {"limit_val_batches": 0.9},
         "trainer.limit_val_batches: 0.9 of the one val batch is less than one; give a number of batches, such as 1"),
        (Data(10, 4, 6), {"limit_test_batches": 0.16}, "trainer.limit_test_batches: 0.16 of the 6 test batches is"),
        (Data(10, 4, 6), {"overfit_batches": 0.2}, "trainer.overfit_batches: 0.2 of the 4 val batches is"),
        (Data(10, 4, 8), {"limit_test_batches": 0.2, "devices": 2, "accelerator": "cpu"},
         "trainer.limit_test_batches: 0.2 of the 4 test batches is"),
        (Data(10, 4, 8), {"limit_test_batches": 0.4, "devices": 2, "num_nodes": 2, "accelerator": "cpu"},
         "trainer.limit_test_batches: 0.4 of the 2 test batches is"),
        (Data(10, 4, 6), {"val_check_interval": 11}, "trainer.val_check_interval: 11 is more than the 10 train "),
        (Data(10, 4, 6), {"val_check_interval": 3, "limit_train_batches": 2}, "trainer.val_check_interval: 3 is "),
        (Data(10, 4, 6), {"val_check_interval": 6, "limit_train_batches": 0.5}, "trainer.val_check_interval: 6 is "),
    ],
)  # fmt: skip
def test_refused(data: Data, trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_limits(run_of(data, **trainer))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "trainer",
    [
        {}, {"limit_val_batches": 0}, {"limit_val_batches": 0.0}, {"limit_train_batches": 0.1},
        {"limit_test_batches": 0.17}, {"overfit_batches": 0.25}, {"limit_test_batches": 1}, {"val_check_interval": 10},
        {"val_check_interval": 11, "check_val_every_n_epoch": None}, {"val_check_interval": 11, "limit_val_batches": 0},
        {"val_check_interval": 0.01},
    ],
)  # fmt: skip
def test_taken(trainer: dict[str, Any]) -> None:
    check_limits(run_of(Data(10, 4, 6), **trainer))


def test_the_stage_of_the_teacher_counts_too() -> None:
    """Its batches are larger, hence fewer."""
    check_limits(run_of(Data(10, 4, 6), limit_train_batches=0.1))
    with pytest.raises(UserError, match=r"0\.1 of the 5 train batches"):
        check_limits(run_of(Data(10, 4, 6), teacher=Data(5, 4, 6), limit_train_batches=0.1))
    with pytest.raises(UserError, match="10 is more than the 5 train batches"):
        check_limits(run_of(Data(10, 4, 6), teacher=Data(5, 4, 6), val_check_interval=10))


@pytest.mark.parametrize("command", ["train", "plan", "slurm"])
def test_a_single_class(vitc, tiny, command: str) -> None:
    folder = vitc.place / "pictures" / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(20):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    keys = ("data.name=folder", "data.root=pictures", "data.num_samples=null", "data.batch_size=4")
    done = vitc(command, "scala_digits", *tiny, *keys)
    line = "error: data.root: pictures/train has one class; a classifier needs two or more\n"
    assert (done.code, done.out, done.error) == (2, "", line)
    done = vitc(command, "scala_glyphs", "data.num_classes=1")
    assert done.error == "error: data.num_classes: 1 is out of range; it must be > 1\n"
    assert not (vitc.place / "runs").exists()


def test_evaluating_a_part_of_no_batch(vitc, finished) -> None:
    done = vitc("evaluate", str(finished), "trainer.limit_test_batches=0.001")
    assert (done.code, done.out) == (2, "")
    assert done.error.startswith("error: trainer.limit_test_batches: 0.001 of the 2 test batches is less than one; ")
    assert done.error.count("\n") == 1


def test_batch_norms_of_one_image(vitc) -> None:
    done = vitc("train", "scala_mobilenetv2_digits", "data.batch_size=1")
    assert (done.code, done.out) == (2, "")
    assert done.error == (
        "error: data.batch_size: 1 is a batch of one image in each part of the step, and the batch norms of "
        "mobilenetv2_100 need two or more; at least 2\n"
    )
    done = vitc("train", "scala_mobilenetv2_digits", "data.batch_size=4", "trainer.accumulate_grad_batches=4")
    assert (done.code, done.error.count("\n")) == (2, 1)
    assert done.error.endswith("need two or more; at least 8\n")
    done = vitc("train", "uvc_resnet_digits", "teacher.batch_size=1")
    assert (done.code, done.error.count("\n")) == (2, 1)
    assert done.error.startswith("error: teacher.batch_size: 1 is a batch of one image in each part of the step, ")


@pytest.mark.parametrize(("images", "refused"), [(1, True), (26, True), (27, False), (50, False)])
def test_batch_norms_of_a_last_image(images: int, refused: bool) -> None:
    """Of a few images the last batch is what is left of them."""
    experiment = load_experiment("dcvit_resnet_digits", [f"data.num_samples={images}"])
    pipeline = Pipeline(experiment, RunDirectory(Path("none")))
    pipeline.data.setup()
    if not refused:
        check_batch_norms(pipeline)
        return
    with pytest.raises(UserError, match=r"^data\.num_samples: in batches of 25 the last one has one image in "):
        check_batch_norms(pipeline)
