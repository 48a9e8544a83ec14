"""Signals: the step is finished and saved, the exit code says which signal it was, and nothing shows in the end."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

STEPS = 32


def run_of(place: Path) -> Path:
    return place / "runs" / "scala_digits" / "default"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "scala" / "best.ckpt", weights_only=True)["state_dict"]


def signal_in_mid_epoch(vitc: Any, number: int, *arguments: str, **environment: str) -> Any:
    """Start a run and send it a signal between two epochs' ends."""
    process, lines = vitc.start(*arguments, **environment), run_of(vitc.place) / "metrics.jsonl"
    while process.is_alive() and not (lines.exists() and lines.read_text().count('"train/loss"') >= 3):
        time.sleep(0.001)
    os.kill(process.pid, number)
    return vitc.done(process)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_stopped_in_mid_epoch_it_continues_bit_for_bit(finished, vitc, tiny, number, code):
    arguments = ("train", "scala_digits", *tiny)
    stopped = signal_in_mid_epoch(vitc, number, *arguments)
    assert stopped.code == code
    name = signal.Signals(number).name
    step = torch.load(run_of(vitc.place) / "checkpoints" / "dense" / "last.ckpt", weights_only=True)["global_step"]
    assert stopped.error == f"stopped by {name} after step {step}; the same command continues from there\n"
    assert step % STEPS, "in mid-epoch"
    done = vitc(*arguments)
    assert done.code == 0, done.error
    one, two = weights(run_of(vitc.place)), weights(finished)
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert (run_of(vitc.place) / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


def test_a_restarted_job_without_checkpoint_stops(vitc, tiny):
    done = vitc("train", "scala_digits", *tiny, SLURM_RESTART_COUNT="1")
    assert done.code == 2
    assert done.error.startswith("error: runs/scala_digits/default: this Slurm job was restarted (1), and there is no")
    assert not run_of(vitc.place).exists()


def test_a_preempted_job_is_put_back(vitc, tiny):
    """By `scontrol`, here one that writes down how it was called."""
    called = vitc.place / "called"
    fake = vitc.place / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    stopped = signal_in_mid_epoch(vitc, signal.SIGUSR1, "train", "scala_digits", *tiny, **environment)
    assert called.read_text() == "requeue 7\n"
    assert "job 7 is requeued" in stopped.error
    called.unlink()
    signal_in_mid_epoch(vitc, signal.SIGTERM, "train", "scala_digits", *tiny, **environment)
    assert not called.exists(), "an end is an end"


def test_the_time_it_took_is_counted_on(vitc, tiny):
    signal_in_mid_epoch(vitc, signal.SIGTERM, "train", "scala_digits", *tiny)
    assert vitc("train", "scala_digits", *tiny).code == 0
    assert json.loads((run_of(vitc.place) / "result.json").read_text())["wall_seconds"] > 0
