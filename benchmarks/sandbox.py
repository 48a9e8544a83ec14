"""Tests in a copy of a checkout in which a file may be changed, each run in a process forked from warmed-up imports."""

import compileall
import gc
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any, cast

import pytest

HEAVY = ("torch", "timm", "lightning.pytorch", "lightning.pytorch.loggers", "torchmetrics.classification",
         "torchvision.transforms", "sklearn.linear_model", "matplotlib.figure", "omegaconf", "tensorboard",
         "hypothesis.strategies", "_hypothesis_pytestplugin")  # fmt: skip

LEFT_OUT = ("cacheprovider", "anyio", "unraisableexception")  # plugins of pytest; the last one collects garbage twice
COMMANDS = {"vitc", "vitc_in", "finished", "finished_run"}  # fixtures of tests that run it


def warm_up() -> None:
    """Import what takes long and is not of this project, once for all tests."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # nothing of this is looked at again by the collector of a test


class Sandbox:
    """A copy of what a checkout tracks, or has not ignored.

    Args:
        checkout: that is copied.
        folder: of the copy; what is there is replaced.
    """

    def __init__(self, checkout: Path, folder: Path):
        self.place, self._failed = folder / "checkout", folder / "failed"
        shutil.rmtree(folder, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=checkout, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, self.place / name, follow_symlinks=False)
        for package in ("lightning_vitc", "callbacks"):  # by hash: a file may change and change back within a second
            compileall.compile_dir(self.place / package, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)

    @contextmanager
    def changed(self, name: str, change: Callable[[str], str]) -> Iterator[None]:
        """Within it the file has another text."""
        file = self.place / name
        before = file.read_text()
        file.write_text(change(before))
        try:
            yield
        finally:
            file.write_text(before)

    def failing(self, *arguments: str, limit: float, quick: bool = False) -> list[str] | None:
        """The tests that fail, of those that pytest is asked for; `None` where so many seconds are not enough.

        Args:
            arguments: of pytest.
            limit: in seconds.
            quick: leave out slow tests, and those that run a whole command.

        Raises:
            RuntimeError: where pytest cannot run them.
        """
        process = multiprocessing.get_context("fork").Process(target=self._pytest, args=(arguments, quick))
        process.start()
        process.join(limit)
        late = process.is_alive()
        with suppress(ProcessLookupError):
            os.killpg(cast(int, process.pid), signal.SIGKILL)  # whatever the tests have left behind, too
        process.join()
        shutil.rmtree(self.place.parent / "tmp", ignore_errors=True)
        if late:
            return None
        if process.exitcode not in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            raise RuntimeError(
                f"pytest {' '.join(arguments)} in {self.place}: exit {process.exitcode}; see {self._log}"
            )
        return self._failed.read_text().splitlines()

    @property
    def _log(self) -> Path:
        return self.place.parent / "log"

    def _pytest(self, arguments: tuple[str, ...], quick: bool) -> None:
        os.setsid()
        os.chdir(self.place)
        os.environ["PYTHONPATH"] = str(self.place)
        sys.path[:] = [str(self.place), *sys.path[1:]]  # in the place of the folder of this script
        out = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        failed = _Failed(quick)
        plugins = [part for name in LEFT_OUT for part in ("-p", f"no:{name}")]
        options = ["-q", *plugins, f"--basetemp={self.place.parent / 'tmp'}"]
        code = pytest.main([*options, *arguments], plugins=[failed])
        self._failed.write_text("".join(f"{name}\n" for name in failed.names))
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


class _Failed:
    """A plugin that notes which tests fail, and selects the quick ones."""

    def __init__(self, quick: bool) -> None:
        self.names: list[str] = []
        self.quick = quick

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out what takes long."""
        if self.quick:
            items[:] = [
                item for item in items if not item.get_closest_marker("slow") and COMMANDS.isdisjoint(item.fixturenames)
            ]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Of the test itself, and of what is made for it before and put away after."""
        if report.failed and report.nodeid not in self.names:
            self.names.append(report.nodeid)
