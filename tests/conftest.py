"""One thread a process: the models are tiny, and threads that wait for each other cost more than they bring."""

import os
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forked  # of benchmarks/
import pytest
from forked import Vitc

from lightning_vitc.files.records import opened

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in subprocesses
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # its own processes take longer to start than to compile


class Intruder:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


_TINY = (
    "model.depth=1", "model.embed_dim=48", "model.num_heads=6", "model.patch_size=4", "data.num_samples=512",
    "data.batch_size=32", "optimizer.lr=3e-3", "optimizer.warmup_epochs=0.5", "method.granularity=0.25",
    "trainer.max_epochs=3", "trainer.log_every_n_steps=4", "data.mixup=0.0",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: processes take one file after another, and the last ones should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def fork() -> Callable[..., BaseProcess]:
    """Start a process that runs some code over some global values."""
    return forked.fork


@pytest.fixture(scope="session")
def vitc_in() -> type[Vitc]:
    """The command, to be run in a directory that outlives a test."""
    return Vitc


@pytest.fixture
def intruder() -> type[Intruder]:
    """An object to put into files: `intruder(mark)`."""
    return Intruder


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What an intruder would leave; it must not be there in the end."""
    path = tmp_path / "it_ran"
    yield path
    assert not path.exists(), "code of a stranger was run"


@pytest.fixture
def vitc(tmp_path: Path) -> Vitc:
    """The command, run in the test's own directory."""
    return Vitc(tmp_path)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides that make `scala_digits` a matter of two seconds: 3 epochs of 16 steps, widths .25, .5, .75 and 1."""
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
        return [opened(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    return read
