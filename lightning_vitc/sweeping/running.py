"""Runs of a sweep, each a process of its own, so many at a time; an interrupted sweep continues."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import IO

from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.sweeping.combinations import Combination

Report = Callable[[str], None]


def command_of(experiment: str, combination: Combination) -> list[str]:
    """The command of one run; `-P`, so that no folder of this directory takes the place of a package."""
    return [sys.executable, "-P", "-m", "lightning_vitc", "train", experiment, *combination.overrides]


def pending(runs: Sequence[Combination]) -> list[Combination]:
    """Those that are not complete.

    Raises:
        UserError: where a directory holds a run of other settings.
    """
    for run in runs:
        RunDirectory(run.directory).must_hold(run.experiment)
    return [run for run in runs if not RunDirectory(run.directory).is_complete()]


class Children:
    """The processes that run, started by threads; none starts once they are stopped."""

    def __init__(self) -> None:
        self._lock, self._running, self._stopped = Lock(), list[subprocess.Popen[bytes]](), False

    def start(self, command: list[str], out: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes] | None:
        """In a session of its own: Ctrl-C reaches the sweep alone, which stops its runs once and waits for them."""
        with self._lock:
            if self._stopped:
                return None
            child = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
            self._running.append(child)
            return child

    def stop(self) -> None:
        """SIGTERM to those that run, which save and end; then wait for them."""
        with self._lock:
            self._stopped = True
        running = [child for child in self._running if child.poll() is None]
        for child in running:
            child.terminate()
        for child in running:
            child.wait()


def execute(experiment: str, runs: Sequence[Combination], logs: Path, jobs: int, report: Report) -> list[str]:
    """Train what is missing; where one fails, the others still run.

    Args:
        experiment: as given by the user.
        runs: of the sweep.
        logs: a folder for what the runs print.
        jobs: at a time; cores are divided between them, unless `OMP_NUM_THREADS` is set.
        report: takes a line when a run ends.

    Returns:
        The names of those that failed.
    """
    missing, failed, children = pending(runs), [], Children()
    logs.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(jobs)
    try:
        tasks = {pool.submit(_train, experiment, run, logs, _environment(jobs), children): run for run in missing}
        for number, task in enumerate(as_completed(tasks), 1):
            code, seconds, last = task.result()
            name = tasks[task].experiment.run_name
            report(f"{number}/{len(missing)} {name}: " + (f"{seconds:.0f} s" if code == 0 else f"failed: {last}"))
            failed += [name] * (code != 0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop()
    return failed


def _environment(jobs: int) -> dict[str, str]:
    share = max(1, (os.cpu_count() or 1) // jobs)
    return ({} if jobs == 1 else {"OMP_NUM_THREADS": str(share)}) | os.environ


def _train(
    experiment: str, run: Combination, logs: Path, environment: dict[str, str], children: Children
) -> tuple[int, float, str]:
    """Exit code, seconds and the last line that was printed."""
    start, log = time.monotonic(), logs / f"{run.experiment.run_name}.log"
    with log.open("ab") as out:
        child = children.start(command_of(experiment, run), out, environment)
        code = -1 if child is None else child.wait()
    lines = log.read_text(errors="replace").splitlines()
    return code, time.monotonic() - start, (lines or [""])[-1].removeprefix("error: ")
