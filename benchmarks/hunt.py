"""Runs that are hit at the moments of `kills.py`, and continued until they are finished."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from forked import Vitc
from kills import Case, Hit, Plan

CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 138}


class Hunt:
    """A run of a case that is hit again and again.

    Args:
        case: what is run.
        folder: holds the finished reference run, `whole`.
        name: of the run.
    """

    def __init__(self, case: Case, folder: Path, name: str = "killed"):
        self.case, self.whole, self.run = case, case.run(folder, "whole"), case.run(folder, name)
        self.arguments = case.arguments(name)
        self.vitc = Vitc(folder / case.slug)

    def hit(self, plan: Plan) -> Hit | None:
        """Continue the run and hit it; `None` where it was beyond that moment before it could be hit.

        Raises:
            RuntimeError: where it ended otherwise than it should.
        """
        before, passed = self._records(), self.case.ends(self.run)[plan.phase]
        if passed.exists():
            return None
        reached = self._moment(plan)
        processes = self.vitc.start_ranks(self.case.ranks, *self.arguments)
        while all(process.is_alive() for process in processes) and not (reached() or passed.exists()):
            time.sleep(0.0005)
        for process in processes if plan.rank is None else [processes[plan.rank]]:
            if process.is_alive():
                os.kill(process.pid or 0, plan.number)
        ends = [self.vitc.done(process) for process in processes]
        codes = {end.code for end in ends}
        if any(self._records().get(file) != time_of for file, time_of in before.items()):
            raise RuntimeError(f"{self.case.title}: what was finished has been done again after a kill")
        if (phase := self.case.phase(self.run)) is None:
            return None
        expected = CODES.get(signal.Signals(plan.number), -plan.number)
        if codes - {0} != {expected}:  # a rank that only helps with the evaluation may have ended before the first one
            raise RuntimeError(f"{self.case.title}: ended with {codes}:\n{ends[0].error}\n{ends[-1].error}")
        torn = len(list(self.run.rglob(".*.tmp")))
        return Hit(phase, signal.Signals(plan.number).name, self._lost(phase), torn)

    def finish(self, name: str | None = None) -> None:
        """Run it to its end.

        Raises:
            RuntimeError: where it fails.
        """
        arguments = self.arguments if name is None else self.case.arguments(name)
        ends = self.vitc.run_ranks(self.case.ranks, *arguments)
        if any(end.code for end in ends):
            raise RuntimeError(f"{self.case.title}: {[end.code for end in ends]}\n{ends[0].error}\n{ends[-1].error}")

    def _moment(self, plan: Plan) -> Callable[[], bool]:
        if plan.writing:
            folder = self.run / "checkpoints" / plan.phase
            return lambda: folder.exists() and any(entry.name.endswith(".tmp") for entry in os.scandir(folder))
        if self.case.trains(plan.phase):
            return self._trained(plan)
        start, delay = self._start_of(plan.phase)
        ready: list[float] = []

        def waited() -> bool:
            if not ready and start.exists():
                ready.append(time.monotonic())
            return bool(ready) and time.monotonic() >= ready[0] + plan.share * delay

        return waited

    def _trained(self, plan: Plan) -> Callable[[], bool]:
        """Whether this process has trained a share of the steps that are left: what is logged counts once it has
        dropped what the one before had logged beyond its checkpoint."""
        file, resumed = self.run / "metrics.jsonl", self._saved(plan.phase)
        before = file.stat().st_ino if file.exists() else None
        left = logged_steps(self.whole, plan.phase) - resumed
        wanted = resumed + max(1, int(plan.share * left))

        def trained() -> bool:
            continued = file.exists() and file.stat().st_ino != before
            return continued and logged_steps(self.run, plan.phase) >= wanted

        return trained

    def _start_of(self, phase: str) -> tuple[Path, float]:
        """What ends before a phase, and how long the phase took in the reference run."""
        number = self.case.phases.index(phase)
        files, own = list(self.case.ends(self.whole).values()), list(self.case.ends(self.run).values())
        seconds = files[number].stat().st_mtime - files[number - 1].stat().st_mtime
        return own[number - 1], max(seconds, 0.0)

    def _lost(self, phase: str) -> int:
        return max(0, logged_steps(self.run, phase) - self._saved(phase))

    def _saved(self, phase: str) -> int:
        checkpoint = self.run / "checkpoints" / phase / "last.ckpt"
        return torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.exists() else 0

    def _records(self) -> dict[Path, int]:
        files = self.case.ends(self.run).values()
        return {file: file.stat().st_mtime_ns for file in files if file.exists()}


def logged_steps(run: Path, stage: str) -> int:
    """Steps of a stage that are logged in their order, of which the last line may be torn."""
    file = run / "metrics.jsonl"
    for line in reversed(file.read_text().splitlines() if file.exists() else []):
        if f'"stage": "{stage}"' in line and line.endswith("}"):
            return json.loads(line)["step"] + 1
    return 0
