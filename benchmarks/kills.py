"""Runs that are killed and stopped at seeded moments, and continued until they are finished.

A moment is a number of logged steps of a stage, the appearance of a temporary file (a checkpoint that is being
written), or a delay after the end of what comes before; where a kill really hit is read from what the run left behind.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from forked import Vitc

EVERY = "callbacks.checkpoint.every_n_steps=3"
CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 138}


@dataclass(frozen=True)
class Case:
    """An experiment made tiny, and the phases of its runs with the file that ends each of them.

    Attributes:
        title: of the row in the table.
        experiment: its name.
        overrides: of its keys.
        phases: in order, of which the first of a stage's name has the file `checkpoints/<stage>/done.json`.
        ranks: processes of a training; all are killed together.
        measured: it decides by measured latencies.
    """

    title: str
    experiment: str
    overrides: tuple[str, ...]
    phases: tuple[str, ...]
    ranks: int = 1
    measured: bool = False

    @property
    def slug(self) -> str:
        """Its name in directories."""
        return self.title.lower().replace(" ", "-").replace(",", "")

    def run(self, folder: Path, name: str) -> Path:
        """A run's directory."""
        return folder / self.slug / "runs" / self.experiment / name

    def arguments(self, name: str) -> tuple[str, ...]:
        """Of `vitc`."""
        return ("train", self.experiment, *self.overrides, EVERY, f"run_name={name}")

    def ends(self, run: Path) -> dict[str, Path]:
        """The file whose appearance ends each phase."""
        records = {"decision": "architecture", "scores": "blocks", "evaluation": "result"}
        return {
            phase: run / f"{records.get(phase, phase)}.json"
            if phase in (*records, "gates", "synthetic") else run / "checkpoints" / phase / "done.json"
            for phase in self.phases
        }  # fmt: skip

    def phase(self, run: Path) -> str | None:
        """What a run is doing, or was killed in; `None` for a finished one."""
        return next((phase for phase, file in self.ends(run).items() if not file.exists()), None)

    def trains(self, phase: str) -> bool:
        """Whether the phase has steps."""
        return self.ends(Path())[phase].name == "done.json"


@dataclass
class Hit:
    """A kill or a stop as it happened.

    Attributes:
        phase: that it hit.
        by: the signal.
        lost: logged steps after the checkpoint, which were done again.
        torn: checkpoints and other files that were being written.
    """

    phase: str
    by: str
    lost: int
    torn: int


@dataclass(frozen=True)
class Plan:
    """Where to hit a run: in a phase, after a share of it."""

    phase: str
    share: float
    number: int = signal.SIGKILL
    writing: bool = False  # as soon as a file is being written there
    rank: int | None = None  # the one that the signal goes to; default: all


def plans(case: Case, seed: int) -> Iterator[Plan]:
    """A kill in every phase, one while a file is written in every stage, and two stops, in the order of the run."""
    draw = random.Random(f"{case.title} {seed}")
    stages = [phase for phase in case.phases if case.trains(phase)]
    for phase in case.phases:
        yield Plan(phase, draw.uniform(0.05, 0.95))
        if phase in stages:
            yield Plan(phase, 0.0, writing=True)
        if phase in (stages[0], stages[-1]):
            number = signal.SIGTERM if phase == stages[0] else signal.SIGUSR1
            yield Plan(phase, draw.uniform(0.3, 0.9), number, rank=case.ranks - 1 if case.ranks > 1 else None)


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
        ends = [self.vitc.done(process) for process in self.vitc.start_ranks(self.case.ranks, *arguments)]
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
    """Steps of a stage that are logged, of which the last line may be torn."""
    file, last = run / "metrics.jsonl", 0
    for line in file.read_text().splitlines() if file.exists() else ():
        if f'"stage": "{stage}"' in line and line.endswith("}"):
            last = max(last, json.loads(line)["step"] + 1)
    return last
