"""A real Slurm of two nodes (see `.ci/slurm_cluster`): preempted in mid-epoch, requeued, and nothing shows."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from same_run import differences


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def nodes() -> int:
    if shutil.which("sinfo") is None:
        return 0
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%D"], capture_output=True, text=True, check=False, timeout=60
    )
    return sum(map(int, done.stdout.split()))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nodes() < 2, reason="no Slurm of two nodes is running; .ci/slurm_cluster starts one"),
]
PLACEMENT = ("--nodes", "2", "--gpus-per-node", "0", "--time", "20", "--submit")
SETUP = "slurm.setup=['export GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1']"


def wait_for(reached: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)


def submit(vitc: Any, *arguments: str) -> str:
    done = vitc("slurm", *arguments, *PLACEMENT)
    assert done.code == 0, done.error
    found = re.search(r"job (\d+)", done.out)
    assert found, done.out
    return found[1]


def state(job: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", slurm("scontrol", "show", "job", job)))


def hurry(job: str) -> bool:
    """Start a job that waits soon, instead of two minutes after it was requeued, as often as Slurm sets that again.

    Not in the second in which it was killed, whose credentials the nodes refuse.
    """
    if state(job)["JobState"] == "PENDING":
        time.sleep(3)
        command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        subprocess.run(command, check=False, capture_output=True, timeout=60)
        time.sleep(2)
    return False


def steps_of(run: Path) -> int:
    """What the stage after the dense teacher has logged."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum('"stage": "scala"' in line and '"train/loss"' in line for line in lines)


def test_preempted_over_two_nodes_it_ends_as_if_nothing_had_been(vitc, tiny):
    arguments = ("scala_digits", *tiny, "data.batch_size=16", "slurm.cpus_per_task=1", SETUP, "trainer.max_epochs=4")
    runs = vitc.place / "runs" / "scala_digits"
    job = submit(vitc, *arguments)
    wait_for(lambda: steps_of(runs / "default") >= 5, 240)
    slurm("scancel", "--signal=SIGUSR1", job)
    wait_for(lambda: state(job)["Restarts"] == "1", 120)
    result = runs / "default" / "result.json"
    wait_for(lambda: result.exists() or hurry(job), 360)
    assert state(job)["Restarts"] == "1"
    log = (runs / "default" / f"slurm-{job}.log").read_text()
    assert f"job {job} is requeued" in log
    stopped = re.search(r"SIGUSR1 after step (\d+)", log)
    assert stopped, log
    assert int(stopped[1]) % 32, "in mid-epoch"
    other = submit(vitc, *arguments, "run_name=whole")
    wait_for((runs / "whole" / "result.json").exists, 360)
    assert state(other)["Restarts"] == "0"
    of_jobs = ("train.sbatch", "slurm-")  # their scripts and what they printed
    assert [name for name in differences(runs / "default", runs / "whole") if not name.startswith(of_jobs)] == []
