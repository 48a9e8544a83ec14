"""`vitc sweep` as a user types it."""

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from lightning_vitc.cli import main
from lightning_vitc.config import dump, load_experiment
from lightning_vitc.sweeping import running

FAST = ("model.depth=1", "model.embed_dim=12", "model.num_heads=2", "trainer.max_epochs=1", "optimizer.warmup_epochs=0",
        "data.num_samples=64")  # fmt: skip
SEEDS = ("sweep", "dense_digits", "seed=0,1")


FAKE = """
import sys, pathlib
from lightning_vitc.config import load_experiment
from lightning_vitc.runs.directory import RunDirectory, write_json
experiment = load_experiment(sys.argv[1], sys.argv[2:])
if experiment.seed == 2:
    sys.exit("error: seed 2 is not liked")
row = {"name": "dense", "macs": 10, "params": 9, "top1": 90.0 + experiment.seed, "top5": 99.0}
write_json(RunDirectory.of(experiment).path / "result.json", {"dense": row, "rows": [], "wall_seconds": 1})
"""


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Runs that are complete at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "command_of", lambda name, run: [sys.executable, "-c", FAKE, name, *run.overrides])


def swept(*arguments: str) -> int:
    return main(["sweep", "dense_digits", *arguments])


def test_what_is_missing_is_trained_and_all_is_shown(quick, capsys):
    for seed in (0, 1):
        Path(f"runs/dense_digits/seed{seed}").mkdir(parents=True)
    assert swept("seed=0,1", "--dry") == 0
    missing = capsys.readouterr().out
    assert missing == "runs/dense_digits/seed0: missing\nruns/dense_digits/seed1: missing\n"
    assert swept("seed=0,1", "--jobs", "2") == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("2 runs, 2 to train; logs in runs/dense_digits/sweep/logs\n1/2 seed")
    assert "| 90.50 ± 0.71 |" in shown.out
    assert swept("seed=0,1", "--json") == 0
    shown = capsys.readouterr()
    assert shown.err == "2 runs, 0 to train; logs in runs/dense_digits/sweep/logs\n"
    assert [row["top1"] for row in json.loads(shown.out)] == [90.0, 91.0]


def test_a_complete_run_of_other_settings_is_not_believed(quick, capsys):
    assert swept("seed=0,1") == 0
    for seed in (0, 1):
        experiment = load_experiment("dense_digits", [f"seed={seed}", f"run_name=seed{seed}"])
        Path(f"runs/dense_digits/seed{seed}/config.yaml").write_text(dump(experiment))
    assert swept("seed=0,1") == 0
    capsys.readouterr()
    for more in ((), ("--dry",), ("--slurm",)):
        assert swept("seed=0,1", "model.depth=2", *more) == 2
        shown = capsys.readouterr()
        assert (shown.out, "seed0: holds a run with model.depth=4, this one has 2" in shown.err) == ("", True)


def test_where_one_fails_the_others_run_and_are_shown(quick, capsys):
    for seed in (0, 1, 2):
        Path(f"runs/dense_digits/seed{seed}").mkdir(parents=True)
    assert swept("seed=2,0,1") == 1
    shown = capsys.readouterr()
    assert "1/3 seed2: failed: seed 2 is not liked\n" in shown.err
    assert shown.err.endswith("error: 1 run failed: seed2; see runs/dense_digits/sweep/logs\n")
    assert "| 90.50 ± 0.71 | 90.50 ± 0.71 | 2 |" in shown.out


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("begun").touch()
time.sleep(60)
"""


def test_ctrl_c_stops_the_run_that_is_trained_and_waits_for_it(quick, monkeypatch, capsys):
    monkeypatch.setattr(running, "command_of", lambda *_: [sys.executable, "-c", SAVES])

    def press_when_begun() -> None:
        while not Path("begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=press_when_begun).start()
    assert swept("seed=0,1") == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert Path("saved").exists()
    assert [path.name for path in Path("runs/dense_digits/sweep/logs").iterdir()] == ["seed0.log"]  # and none began


def test_an_array_has_a_task_a_run(vitc):
    done = vitc(*SEEDS, *FAST, "data.mean=[0.5]", "--slurm", "--jobs", "2")
    assert (done.code, done.error) == (0, "")
    path = "runs/dense_digits/sweep/sweep.sbatch"
    assert done.out == f"{path}\nsubmit it with: sbatch {path}\n"
    text = (vitc.place / path).read_text()
    assert "#SBATCH --array=0-1%2\n" in text
    listed = shlex.split(text.partition("runs=(")[2].partition("\n)\n")[0])
    assert [shlex.split(command)[5:] for command in listed] == [
        ["dense_digits", *FAST, "data.mean=[0.5]", f"seed={seed}", f"run_name=seed{seed}", "trainer.num_nodes=1",
         "trainer.devices=1", "trainer.accelerator=gpu"] for seed in (0, 1)
    ]  # fmt: skip
    assert text.endswith('eval "srun --kill-on-bad-exit=1 --cpus-per-task=8 ${runs[$SLURM_ARRAY_TASK_ID]}"\n')


@pytest.mark.parametrize(("options", "said"), [
    (("--jobs", "0"), "--jobs: 0 must be"), (("--submit",), "--submit: goes with --slurm"), (("seed=0,1",), "seed"),
])  # fmt: skip
def test_mistakes(vitc, options, said):
    done = vitc("sweep", "dense_digits", *options, "seed=0,0")
    assert (done.code, done.out) == (2, "")
    assert said in done.error
