"""The batch script of an experiment: one task a device, requeued and resumed where it stopped."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_vitc.data.sampler import EpochBatchSampler
from lightning_vitc.errors import UserError
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.pipeline.start import startable
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import Experiment
from lightning_vitc.sweeping.combinations import Combination

ARRAY = "sweep.sbatch"  # of several runs


def write_script(experiment: Experiment, name: str, overrides: list[str], data_is_here: bool = True) -> Path:
    """Write `<run directory>/train.sbatch` and return its path.

    Args:
        experiment: typed, with the `slurm` section to use.
        name: of the experiment, as given by the user.
        overrides: `key=value` of the user, repeated in the script.
        data_is_here: what the run would refuse is found out before; else only the nodes can.

    Raises:
        UserError: where sbatch or the run would refuse it.
    """
    directory = RunDirectory.of(experiment)
    check(experiment, directory, data_is_here)
    directory.open(experiment)  # the script belongs to the run: the same checks, the same config.yaml
    try:
        path = directory.path / "train.sbatch"
        write_atomically(path, script(experiment, name, overrides).encode())
    finally:
        directory.close()  # not before: who opens the run removes what seems to be half written
    return path


def script(experiment: Experiment, name: str, overrides: list[str]) -> str:
    """The text of the batch script."""
    output = f"{RunDirectory.of(experiment).path.absolute()}/slurm-%j.log"
    lines = _header(experiment, f"{experiment.name}-{experiment.run_name}", output)
    return "\n".join([*lines, "", f"{_srun(experiment)} {shlex.join(_command(experiment, name, overrides))}", ""])


def write_array(runs: Sequence[Combination], name: str, place: Path, jobs: int, data_is_here: bool = True) -> Path:
    """Write `<place>/sweep.sbatch`, a job array: each task is a job of its own, which trains one run.

    Args:
        runs: that are not complete.
        name: of the experiment, as given by the user.
        place: a folder, also of the tasks' logs.
        jobs: tasks at a time.
        data_is_here: see `write_script`.

    Raises:
        UserError: see `write_script`.
    """
    for run in runs:
        check(run.experiment, RunDirectory(run.directory), data_is_here)
    place.mkdir(parents=True, exist_ok=True)
    path = place / ARRAY
    write_atomically(path, array_script(runs, name, place, jobs).encode())
    return path


def array_script(runs: Sequence[Combination], name: str, place: Path, jobs: int) -> str:
    """The text of the job array."""
    first = runs[0].experiment
    commands = [shlex.join(_command(run.experiment, name, run.overrides)) for run in runs]
    output, tasks = f"{place.absolute()}/slurm-%A_%a.log", f"0-{len(runs) - 1}%{jobs}"
    lines = _header(first, f"{first.name}-sweep", output, array=tasks)
    return "\n".join([*lines, "", "runs=(", *(f"    {shlex.quote(command)}" for command in commands), ")",
                      f'eval "{_srun(first)} ${{runs[$SLURM_ARRAY_TASK_ID]}}"', ""])  # fmt: skip


def _header(experiment: Experiment, job: str, output: str, **more: str) -> list[str]:
    """What sbatch is asked, and what is done before `srun`."""
    slurm = experiment.slurm
    options: dict[str, object] = {
        "job-name": job,
        "nodes": slurm.nodes,
        "ntasks-per-node": _tasks(experiment),
        "cpus-per-task": slurm.cpus_per_task,
        "gpus-per-node": slurm.gpus_per_node or None,
        "time": slurm.time,
        "account": slurm.account,
        "partition": slurm.partition,
        "constraint": slurm.constraint,
        "mem": slurm.mem,
        "qos": slurm.qos,
        "reservation": slurm.reservation,
        "exclude": slurm.exclude,
        "mail-user": slurm.mail_user,
        "mail-type": slurm.mail_type,
        **more,
        "output": output,
        "open-mode": "append",
        "requeue": True,  # after a node failed or was taken away; the run continues
        "signal": f"SIGUSR1@{slurm.signal_seconds}",  # to the tasks: save, and back into the queue
    }
    asked = [f"--{_option(key, value)}" for key, value in options.items() if value is not None]
    asked = [f"#SBATCH {option}" for option in (*asked, *slurm.extra)]
    return ["#!/bin/bash", *asked, "", "set -euo pipefail", f"cd {shlex.quote(str(Path.cwd()))}", *slurm.setup]


def _srun(experiment: Experiment) -> str:
    """Since Slurm 22.05 srun does not take the cores of a task over from sbatch: without them, each task has one."""
    return f"srun --kill-on-bad-exit=1 --cpus-per-task={experiment.slurm.cpus_per_task}"


def _command(experiment: Experiment, name: str, overrides: Sequence[str]) -> list[str]:
    """One run. -P: no folder of the submit directory, such as one called `timm`, takes the place of a package."""
    placement = [f"trainer.{key}={value}" for key, value in _placement(experiment).items()]
    return [sys.executable, "-P", "-m", "lightning_vitc", "train", name, *overrides, *placement]


def submit(script_path: Path) -> str:
    """Call sbatch; the job number and how to watch it.

    Raises:
        UserError: where there is no sbatch, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--submit: there is no sbatch on this machine; submit the script from a login node")
    done = subprocess.run(["sbatch", "--parsable", str(script_path)], check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise UserError(f"--submit: sbatch refused: {reason}")
    job = done.stdout.strip().split(";")[0]
    folder, task = shlex.quote(str(script_path.parent)), "_0" if script_path.name == ARRAY else ""
    return f"job {job}; watch it with: squeue -j {job}, tail -f {folder}/slurm-{job}{task}.log"


def _option(key: str, value: object) -> str:
    return key if value is True else f"{key}={shlex.quote(str(value))}"


def _tasks(experiment: Experiment) -> int:
    """Processes a node."""
    return max(1, experiment.slurm.gpus_per_node)


def _placed(experiment: Experiment) -> Experiment:
    """As the script runs it: on so many nodes and devices, whatever its `trainer` says."""
    trainer = replace(experiment.trainer, **_placement(experiment))
    return replace(experiment, trainer=trainer)


def _placement(experiment: Experiment) -> dict[str, Any]:
    slurm = experiment.slurm
    accelerator = "gpu" if slurm.gpus_per_node else "cpu"
    return {"num_nodes": slurm.nodes, "devices": _tasks(experiment), "accelerator": accelerator}


def check(experiment: Experiment, directory: RunDirectory, data_is_here: bool = True) -> None:
    """Refuse what sbatch or the run would.

    Raises:
        UserError: see `write_script`.
    """
    slurm, size = experiment.slurm, experiment.data.batch_size
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", slurm.time):
        raise UserError(
            f"slurm.time: {slurm.time!r} is no time limit; give minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
        )
    EpochBatchSampler(  # of a single batch: refuses one that does not divide over the processes
        size, batch_size=size, seed=experiment.seed, world_size=slurm.nodes * _tasks(experiment),
        accumulate=experiment.trainer.accumulate_grad_batches,
    )  # fmt: skip
    if data_is_here and not directory.is_complete():  # else the job prints its table
        startable(_placed(experiment), directory, measure=False)  # a latency is measured where the job runs
