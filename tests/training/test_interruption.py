"""Signals: the step is finished and saved, the exit code says which signal it was, and nothing shows in the end."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_vitc.errors import Interrupted
from lightning_vitc.errors.signals import SIGNALS
from lightning_vitc.training import interruption
from lightning_vitc.training.interruption import Interruption, between_stages

STEPS = 16


def run_of(place: Path) -> Path:
    return place / "runs" / "scala_digits" / "default"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "scala" / "best.ckpt", weights_only=True)["state_dict"]


def signal_in_mid_epoch(vitc: Any, number: int, *arguments: str, **environment: str) -> Any:
    """Start a run and send it a signal between two epochs' ends."""
    process, lines = vitc.start(*arguments, **environment), run_of(vitc.place) / "metrics.jsonl"
    while process.is_alive() and not (lines.exists() and lines.read_text().count('"train/loss"') >= 1):
        time.sleep(0.001)
    os.kill(process.pid, number)
    return vitc.done(process)


def scontrol(place: Path) -> Path:
    """Put a `scontrol` into `bin` that appends how it was called to the file, then ends the job for a second."""
    called, fake = place / "called", place / "bin" / "scontrol"
    fake.parent.mkdir()
    ends = f"(for _ in $(seq 100); do kill -TERM $PPID || break; sleep 0.01; done; touch {called}.over)"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {called}\n{ends} > /dev/null 2>&1 &\n')
    fake.chmod(0o755)
    return called


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 138),
        (signal.SIGQUIT, 131),
    ],
)
def test_stopped_in_mid_epoch_it_says_so_and_continues_bit_for_bit(finished, vitc, tiny, number, code):
    arguments = ("train", "scala_digits", *tiny)
    stopped = signal_in_mid_epoch(vitc, number, *arguments)
    assert stopped.code == code
    name = signal.Signals(number).name
    step = torch.load(run_of(vitc.place) / "checkpoints" / "dense" / "last.ckpt", weights_only=True)["global_step"]
    assert stopped.error == f"stopped by {name} after step {step}; the same command continues from there\n"
    assert step % STEPS, "in mid-epoch"
    if number != signal.SIGTERM:  # all of them have left the same by now
        return
    done = vitc(*arguments)
    assert done.code == 0, done.error
    one, two = weights(run_of(vitc.place)), weights(finished)
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert (run_of(vitc.place) / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_before_there_is_a_stage_it_says_so(vitc, tiny, number):
    """While data are read and latencies measured; the imports before are in `test_signals.py`."""
    place = vitc.place / "runs"
    process = vitc.start("train", "scala_digits", *tiny)
    while process.is_alive() and not place.exists():
        time.sleep(0.0005)
    os.kill(process.pid, number)
    done = vitc.done(process)
    assert (done.code, done.out) == (128 + number, ""), done.error
    assert done.error == (f"stopped by {number.name} between two stages; the same command continues from there\n")


def test_a_restarted_job_without_checkpoint_stops(vitc, tiny):
    done = vitc("train", "scala_digits", *tiny, SLURM_RESTART_COUNT="1")
    assert done.code == 2
    assert done.error.startswith("error: runs/scala_digits/default: this Slurm job was restarted (1), and there is no")
    assert not run_of(vitc.place).exists()


def test_a_restarted_job_does_not_start_over(finished, vitc, tiny):
    """Slurm repeats the command as it was, `--fresh` included."""
    shutil.copytree(finished, run_of(vitc.place))
    (run_of(vitc.place) / "result.json").unlink()
    files = sorted(run_of(vitc.place).glob("checkpoints/*/*"))
    before = [file.stat().st_mtime_ns for file in files]
    assert vitc("train", "scala_digits", *tiny, "--fresh", SLURM_RESTART_COUNT="1").code == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_preempted_job_is_put_back(vitc, tiny):
    """By `scontrol`, here one that writes down how it was called; what ends the job then finds all of it saved."""
    called = scontrol(vitc.place)
    environment = {"PATH": f"{vitc.place}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    stopped = signal_in_mid_epoch(vitc, signal.SIGUSR1, "train", "scala_digits", *tiny, **environment)
    assert called.read_text() == "requeue 7\n"
    assert stopped.code == 138, stopped.error
    assert re.fullmatch(r"job 7 is requeued\nstopped by SIGUSR1 after step \d+; the same command .*\n", stopped.error)
    called.unlink()
    signal_in_mid_epoch(vitc, signal.SIGTERM, "train", "scala_digits", *tiny, **environment)
    assert not called.exists(), "an end is an end"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_between_two_stages_the_run_ends_at_once(number, code, monkeypatch, tmp_path, capfd):
    called = scontrol(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(interruption, "_leaving", False)
    ended, preempted = (signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1))
    message = f"^{signal.Signals(number).name} between two stages; the same"
    with pytest.raises(Interrupted, match=message) as stopped, between_stages():
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert called.exists() == (number == signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == preempted
    while called.exists() and not called.with_name("called.over").exists():
        time.sleep(0.01)
    assert signal.signal(signal.SIGTERM, ended) == (signal.SIG_IGN if number == signal.SIGUSR1 else ended)


@pytest.mark.slow
def test_stopped_in_the_evaluation_it_continues(finished, vitc, tiny):
    """The evaluation is no training: what answers there is not what answers in a stage."""
    arguments = ("train", "scala_digits", *tiny)
    process, stage = vitc.start(*arguments), run_of(vitc.place) / "checkpoints" / "scala" / "done.json"
    while process.is_alive() and not stage.exists():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGTERM)
    stopped = vitc.done(process)
    assert (stopped.code, stopped.error) == (
        143, "stopped by SIGTERM between two stages; the same command continues from there\n")  # fmt: skip
    assert not (run_of(vitc.place) / "result.json").exists()
    assert vitc(*arguments).code == 0
    rows = [json.loads((run / "result.json").read_text())["rows"] for run in (run_of(vitc.place), finished)]
    assert rows[0] == rows[1]


def test_a_signal_in_the_last_validation_ends_the_stage_and_not_the_next_one(vitc, tiny):
    """No batch of the stage comes after it."""
    lines = run_of(vitc.place) / "metrics.jsonl"
    process = vitc.start("train", "scala_digits", *tiny, "data.eval_batch_size=1")
    while process.is_alive() and not (lines.exists() and lines.read_text().count(f'"step": {3 * STEPS - 1}')):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGTERM)
    stopped = vitc.done(process)
    assert (stopped.code, stopped.error.count(f"after step {3 * STEPS};")) == (143, 1), stopped.error
    assert not (run_of(vitc.place) / "checkpoints" / "scala").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_preemption_of_any_rank_requeues_the_job_once(vitc, tiny, rank):
    called = scontrol(vitc.place)
    job = {"PATH": f"{vitc.place}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    ranks = vitc.start_ranks(2, "train", "scala_digits", *tiny, **job)
    lines = run_of(vitc.place) / "metrics.jsonl"
    while all(one.is_alive() for one in ranks) and not (lines.exists() and lines.read_text().count("train/loss") >= 3):
        time.sleep(0.001)
    os.kill(ranks[rank].pid, signal.SIGUSR1)
    ends = [vitc.done(one) for one in ranks]
    assert [end.code for end in ends] == [138, 138], ends
    assert all("stopped by SIGUSR1 after step " in end.error for end in ends)
    assert called.read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("own", "others", "counts"),
    [
        (None, None, None),
        (None, signal.SIGUSR1, signal.SIGUSR1),
        (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1),
        (signal.SIGTERM, signal.SIGQUIT, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT, signal.SIGINT),
    ],
)
def test_of_several_signals_the_one_that_loses_least_counts(own, others, counts):
    class Strategy:
        root_device = torch.device("cpu")

        def reduce(self, value, reduce_op):
            assert reduce_op == "max"
            return torch.maximum(value, torch.tensor(0 if others is None else 1 + SIGNALS.index(others)))

    trainer = SimpleNamespace(world_size=2, global_step=20, is_global_zero=False, strategy=Strategy())
    one = Interruption()
    one.received = own
    assert one.agreed(trainer) == (counts is not None)
    if counts is not None:
        assert one.stop(trainer).exit_code == 128 + counts


def test_ranks_are_asked_every_few_steps_and_when_it_matters():
    asked = []
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), reduce=lambda value, reduce_op: asked.append(1) or torch.tensor(2)
    )
    trainer = SimpleNamespace(world_size=2, global_step=21, strategy=strategy)
    one = Interruption()
    assert (one.agreed(trainer), len(asked)) == (False, 0)
    assert (one.agreed(trainer, now=True), len(asked)) == (True, 1)


@pytest.mark.slow
def test_the_time_it_took_is_counted_on(vitc, tiny):
    signal_in_mid_epoch(vitc, signal.SIGTERM, "train", "scala_digits", *tiny)
    assert vitc("train", "scala_digits", *tiny).code == 0
    assert json.loads((run_of(vitc.place) / "result.json").read_text())["wall_seconds"] > 0
