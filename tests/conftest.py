"""One thread a process: the models are tiny, and threads that wait for each other cost more than they bring."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in subprocesses

# Processes are forked from a server that has done the imports, which take longer than the tiny trainings.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["lightning_vitc.training.train", "lightning_vitc.training.finished", "sklearn.datasets"])
_MAIN = """
import multiprocessing, os, sys
multiprocessing.set_start_method("fork", force=True)  # as in a process of its own
os.chdir(place)
os.environ.update(environment)
for number, name in ((1, out), (2, error)):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
from lightning_vitc.cli import main
code = main(arguments)
sys.stdout.flush(), sys.stderr.flush()
sys.exit(code)
"""
_TINY = (
    "model.depth=1", "model.embed_dim=48", "model.num_heads=6", "model.patch_size=4", "data.num_samples=512",
    "data.batch_size=16", "optimizer.lr=3e-3", "optimizer.warmup_epochs=0.5", "method.granularity=0.25",
    "trainer.max_epochs=3", "trainer.log_every_n_steps=4", "data.mixup=0.0",
)  # fmt: skip


def _fork(code: str, name: str | None = None, **values: Any) -> BaseProcess:
    process = _FORKS.Process(target=exec, args=(code, values), name=name)
    process.start()
    return process


@dataclass
class Done:
    """What a process left behind."""

    code: int | None
    out: str
    error: str


class Vitc:
    """The command `vitc`, each time in a process of its own, in one directory."""

    def __init__(self, place: Path) -> None:
        self.place, self.count = place, 0

    def __call__(self, *arguments: str, timeout: float = 120, **environment: str) -> Done:
        process = self.start(*arguments, **environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
        return self.done(process)

    def start(self, *arguments: str, **environment: str) -> BaseProcess:
        """Run it without waiting; `done` reads the end."""
        self.count += 1
        names = {name: str(self.place / f".{name}.{self.count}") for name in ("out", "error")}
        values = dict(arguments=list(arguments), place=str(self.place), environment=environment, **names)
        return _fork(_MAIN, str(self.count), **values)

    def done(self, process: BaseProcess) -> Done:
        """Exit code and output of a process that has ended."""
        process.join()
        out, error = (self.place / f".{name}.{process.name}" for name in ("out", "error"))
        return Done(process.exitcode, *(file.read_text() if file.exists() else "" for file in (out, error)))

    def kill_when(self, reached: Callable[[], bool], *arguments: str) -> bool:
        """Start it, and SIGKILL it once a state is reached; whether that was before it ended by itself."""
        process = self.start(*arguments)
        while process.is_alive() and not reached():
            time.sleep(0.001)
        process.kill()
        process.join()
        return process.exitcode == -9


@pytest.fixture(scope="session")
def fork() -> Callable[..., BaseProcess]:
    """Start a process that runs some code over some global values."""
    return _fork


@pytest.fixture(scope="session")
def vitc_in() -> type[Vitc]:
    """The command, to be run in a directory that outlives a test."""
    return Vitc


@pytest.fixture
def vitc(tmp_path: Path) -> Vitc:
    """The command, run in the test's own directory."""
    return Vitc(tmp_path)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides that make `scala_digits` a matter of two seconds: 3 epochs of 32 steps, widths .25, .5, .75 and 1."""
    return _TINY


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `scala_digits` with its dense teacher, to read and not to change."""
    place = tmp_path_factory.mktemp("finished")
    done = Vitc(place)("train", "scala_digits", *_TINY)
    assert done.code == 0, done.error
    (place / "stdout").write_text(done.out)
    return place / "runs" / "scala_digits" / "default"


@pytest.fixture(scope="session")
def finished_run() -> Callable[..., Path]:
    """`finished_run(place, "dcvit_digits", *overrides)`: train it there, and give the directory of the run."""

    def finish(place: Path, experiment: str, *overrides: str) -> Path:
        done = Vitc(place)("train", experiment, *overrides)
        assert done.code == 0, done.error
        return place / "runs" / experiment / "default"

    return finish


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's `metrics.jsonl`."""

    def read(run: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    return read
