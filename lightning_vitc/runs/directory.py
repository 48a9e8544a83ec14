"""The directory of a run: what is where, whose it is, and whether it is complete."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_vitc.config import dump, load_experiment
from lightning_vitc.config.sources import flat
from lightning_vitc.config.yaml_text import read_file
from lightning_vitc.errors import UserError
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.files.folder_lock import FolderLock
from lightning_vitc.files.records import opened, sealed
from lightning_vitc.schema import Experiment

# Where and how fast a run is computed, not what: these may change between a run and its continuation. The classes of
# data.root and data.classes are compared by their names.
FREE = ("slurm", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
        "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler", "trainer.compile",
        "data.num_workers", "data.pin_memory", "data.root", "data.classes", "data.on_error", "threads",
        "model.grad_checkpointing", "output_dir", "run_name", "description", "label", "recipe", "callbacks.checkpoint",
        "method.trials_at_once")  # fmt: skip
RESULT = "result.json"
BATCH_FILES = ("train.sbatch", "slurm-*.log")  # of `vitc slurm`: there before the run is, and used while it starts


class RunDirectory:
    """`<output_dir>/<experiment>/<run name>`.

    Args:
        path: the directory.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = FolderLock(self.path)
        self._is_new = False  # no run was there before this process
        self.is_continued = False  # one was there; known to the process that has opened it

    @classmethod
    def of(cls, experiment: Experiment) -> "RunDirectory":
        """Where the experiment's run belongs."""
        return cls(Path(experiment.output_dir) / experiment.name / experiment.run_name)

    @property
    def config(self) -> Path:
        """The resolved experiment."""
        return self.path / "config.yaml"

    @property
    def result(self) -> Path:
        """Every number of the final table; it exists once the run is complete."""
        return self.path / RESULT

    def stage(self, name: str) -> Path:
        """The checkpoints of a stage: `last.ckpt`, the one before it, `best.ckpt`; once it is finished, `done.json`."""
        return self.path / "checkpoints" / name

    def open(self, experiment: Experiment, fresh: bool = False) -> None:
        """Create the directory, or take up the run in it, and keep other processes out.

        Raises:
            UserError: where it cannot be written, another process uses it, or it holds another run.
        """
        self._take_lock()
        try:
            if fresh:
                self._empty()
            self._must_be_ours(experiment)
        except UserError:
            self._lock.withdraw()
            raise
        for unfinished in [*self.path.rglob(".*.tmp")]:  # what a killed process was writing
            _remove(unfinished)
        self.is_continued = self.config.exists()
        if not self.is_continued:
            self._is_new = True
            write_atomically(self.config, dump(experiment).encode())

    def withdraw(self) -> None:
        """Remove a run that this process began, where it has saved no checkpoint: its start was refused."""
        if self._is_new and not any(self.path.glob("checkpoints/*/*.ckpt")):
            self._remove_files()
            self._lock.withdraw(whole=True)

    def close(self) -> None:
        """Let other processes in."""
        self._lock.release()

    def is_complete(self) -> bool:
        """Whether the final table was written."""
        return self.result.is_file()

    def must_be_complete(self) -> "RunDirectory":
        """Itself.

        Raises:
            UserError: where it is no run, or not a finished one.
        """
        self.written()
        if not self.is_complete():
            raise UserError(f"{self.path}: the run is not complete; continue it with 'vitc train'")
        self.read_result()
        return self

    def written(self) -> dict[str, Any]:
        """The content of `config.yaml`.

        Raises:
            UserError: where it is damaged, or not there.
        """
        if not self.config.is_file():
            raise UserError(f"{self.path}: not a run directory: it has no config.yaml")
        try:
            return read_file(self.config, shown=str(self.config))
        except UserError as error:
            raise UserError(f"{error}; repair it, or start over with --fresh") from None

    def experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment in it, with other values for some keys."""
        self.written()
        return load_experiment(str(self.config), overrides, check_files=False)

    def read_result(self) -> dict[str, Any]:
        """The content of `result.json`."""
        return read_json(self.result, "dense", "rows")

    def _take_lock(self) -> None:
        try:
            self._lock.take()
        except OSError as error:
            if error.filename is not None:  # of a folder or the file, not of the lock
                problem = f"output_dir: {self.path} cannot be written ({error.strerror}); name another"
            elif isinstance(error, BlockingIOError | PermissionError):
                problem = f"{self.path}: another process is running this run; wait for it or set run_name"
            else:  # Lustre mounted without flock, NFS without a lock daemon
                why = f"is on a file system that locks no files ({error.strerror or error})"
                problem = f"output_dir: {self.path} {why}; name another"
            raise UserError(problem) from None

    def _empty(self) -> None:
        if not self.config.exists() and self._strangers():
            raise UserError(f"{self.path}: not a run directory; --fresh deletes nothing there")
        self._remove_files()

    def _remove_files(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir() or not (entry.name == ".lock" or _is_of_batch(entry)):
                _remove(entry)

    def _strangers(self) -> list[str]:
        entries = [entry for entry in self.path.iterdir() if not entry.name.startswith(".")]
        return sorted(entry.name for entry in entries if not _is_of_batch(entry))

    def _must_be_ours(self, experiment: Experiment) -> None:
        if not self.config.exists():
            if strangers := self._strangers():
                raise UserError(f"{self.path}: not a run directory: it holds {strangers[0]} and no config.yaml")
            return
        there, here = flat(self.experiment().to_container()), flat(experiment.to_container())
        general_first = sorted(there.keys() | here.keys(), key=lambda key: (key.count("."), key))
        for key in general_first:  # `seed` before `callbacks.width_sampling.seed`, which refers to it
            if not key.startswith(FREE) and there.get(key) != here.get(key):
                raise UserError(
                    f"{self.path}: holds a run with {key}={there.get(key)}, this one has {here.get(key)}; "
                    "set run_name to another name, or use --fresh to start over"
                )
        self._must_have(general_first)

    def must_hold(self, experiment: Experiment) -> None:
        """Refuse a run of other settings; one that has not begun holds any.

        Raises:
            UserError: for the first key that differs.
        """
        if self.config.exists():
            self._must_be_ours(experiment)

    def _must_have(self, keys: list[str]) -> None:
        """All keys, unless it is complete: a default of today would change the run in the middle of it."""
        written = flat(self.written()).keys()
        missing = [key for key in keys if key not in written and not key.startswith(FREE)]
        if missing and not self.is_complete():
            raise UserError(
                f"{self.path}: holds an unfinished run of a version that had no {missing[0]}; finish it with that "
                "version, set run_name to another name, or use --fresh to start over"
            )


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON document of a run, as `write_json` wrote it, which has these keys.

    Raises:
        UserError: where it is missing or damaged.
    """
    try:
        document = opened(path.read_bytes())
        problem = "" if document.keys() >= set(keys) else f"damaged: it must have {' and '.join(keys)}"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except json.JSONDecodeError:
        problem = "damaged: it is no JSON document"
    except ValueError as error:
        problem = f"damaged: {error}"
    if problem:
        raise UserError(f"{path}: {problem}; {_remedy(path)}")
    return document


def _remedy(path: Path) -> str:
    """What brings a record of a run back: what is recorded is found again by the stages that are finished."""
    if path.name == RESULT or not any((place / RESULT).exists() for place in path.parents[:3]):
        return "remove it and start the run again, which writes it anew"
    return f"remove it and {RESULT} and start the run again, which writes both anew"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document of a run whole, with a digest of it."""
    write_atomically(path, (json.dumps(sealed(document), indent=1) + "\n").encode())


def _remove(entry: Path) -> None:
    """A file, a link or a folder with all that is in it; one that has gone already with its folder is fine."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _is_of_batch(entry: Path) -> bool:
    return any(entry.match(pattern) for pattern in BATCH_FILES)
