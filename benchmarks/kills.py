"""Where runs are killed and stopped: seeded moments in every phase of a method's run.

A moment is a number of logged steps of a stage, the appearance of a temporary file (a checkpoint that is being
written), or a delay after the end of what comes before; where a kill really hit is read from what the run left behind.
"""

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EVERY = "callbacks.checkpoint.every_n_steps=3"


@dataclass(frozen=True)
class Case:
    """An experiment made tiny, and the phases of its runs with the file that ends each of them.

    Attributes:
        title: of the row in the table.
        experiment: its name.
        overrides: of its keys.
        phases: in order: the stages by their names, and what is decided or made between them.
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
