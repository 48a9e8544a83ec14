"""What `real.py` would run: every run can be read, waits for what it needs, and is made once."""

from pathlib import Path

import pytest
import real  # of benchmarks/
from on_photographs import few_images, pruning
from on_photographs.setting import Planned, Setting, minutes

from lightning_vitc.config import load_experiment
from lightning_vitc.runs.directory import RunDirectory

PLACE = Path("/nowhere")
SETTING = Setting(PLACE / "runs", (0, 1), PLACE / "caltech", PLACE / "cifar", PLACE / "weights.safetensors")


@pytest.mark.parametrize("section", real.SECTIONS)
def test_runs_can_be_read_and_are_made_once(section: str) -> None:
    phases = real.phases_of(SETTING, section)
    places = [planned.run.directory(PLACE) for phase in phases for planned in phase]
    assert len(places) == len({*places})
    made: set[str] = set()
    for phase in phases:
        for run in (planned.run for planned in phase):
            load_experiment(run.experiment, [*run.overrides, f"seed={run.seed}"], check_files=False)
            keys = dict(key.split("=", 1) for key in run.overrides)
            assert {keys[key] for key in ("teacher.run", "method.trials_of") if key in keys} <= made
        made |= {str(planned.run.directory(SETTING.folder)) for planned in phase}


def test_methods_take_equal_steps_whatever_the_number_of_images() -> None:
    for planned in (planned for phase in few_images.compared(SETTING) for planned in phase):
        keys = dict(key.split("=", 1) for key in planned.run.overrides)
        steps_an_epoch = -(-int(keys["data.num_samples"]) // few_images.BATCH)
        assert int(keys["trainer.max_epochs"]) * steps_an_epoch == few_images.STEPS
        assert float(keys["optimizer.warmup_epochs"]) * steps_an_epoch == 4
    assert load_experiment("dcvit_caltech", check_files=False).data.batch_size == few_images.BATCH


def test_pruning_has_equal_epochs() -> None:
    for planned in (planned for phase in pruning.phases(SETTING) for planned in phase):
        run = planned.run
        experiment = load_experiment(run.experiment, run.overrides, check_files=False)
        searched = experiment.trainer.max_epochs if experiment.method_name == "uvc" else 0
        assert searched + experiment.method.finetune_epochs == pruning.SEARCH + pruning.AFTER


def test_minutes_by_hand() -> None:
    """600 images forward and 2,893 of the test split twice at 10 ms, and 1,000 of the training at 60 ms."""
    planned = Planned(SETTING.original.run, 600, 1000)
    assert minutes(planned, {"caltech": (0.01, 0.06)}) == pytest.approx((6386 * 0.01 + 60) / 60)


def test_masks_of_uvc_are_the_decision_of_a_run_that_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / "caltech" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "caltech" / "train" / "cat" / "a.jpg").touch()
    setting = Setting(tmp_path, (0,), tmp_path / "caltech", tmp_path, tmp_path / "w", budgets=(50,))
    for run in (setting.original.run, pruning.run_of(setting, pruning.UVC, 50, 0)):
        run.directory(tmp_path).mkdir(parents=True)
        (run.directory(tmp_path) / "config.yaml").touch()
    (run.directory(tmp_path) / pruning.DECISION).write_text("masks")
    first, [last] = pruning.phases(setting)
    for planned in [*first, last, last]:
        pruning.prepare(setting, planned)
    assert (last.run.directory(tmp_path) / pruning.DECISION).read_text() == "masks"
    assert RunDirectory(last.run.directory(tmp_path)).experiment().budget.macs == "50%"
    assert len([*tmp_path.glob(f"*/*/{pruning.DECISION}")]) == 2
