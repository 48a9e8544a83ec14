"""A logger that appends every logged scalar to `metrics.jsonl`."""

import json
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lightning_vitc.errors.messages import counted
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.files.records import opened, sealed


class MetricsFile(Logger):
    """One JSON object a line: `stage`, `step`, and the scalars logged there.

    Args:
        directory: of the run.
        stage: name of the stage.
    """

    def __init__(self, directory: Path, stage: str):
        super().__init__()
        self.path, self.stage = directory / "metrics.jsonl", stage

    @property
    def name(self) -> str:
        """Of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """The stage."""
        return self.stage

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsFile":
        """Lightning's name for the writer."""
        return self

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        line = {"stage": self.stage, "step": step, "epoch": metrics.get("epoch"), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(sealed(line)) + "\n")

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Drop this stage's lines of step number `step` and later, which are logged again; a torn last line too."""
        if not self.path.exists():
            return
        kept = [text for text, line in read_lines(self.path) if line["stage"] != self.stage or line["step"] < step]
        write_atomically(self.path, b"".join(text + b"\n" for text in kept))


def read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines of a `metrics.jsonl`, as they are and as they read; a warning counts those that are damaged.

    The last one, which a kill may have torn, is left out without a word.
    """
    *texts, torn = (path.read_bytes() if path.is_file() else b"").split(b"\n")
    lines = [(text, line) for text in texts if (line := _opened(text)) is not None]
    if damaged := len(texts) - len(lines):
        warnings.warn(f"{path}: {counted(damaged, 'damaged line is', 'damaged lines are')} left out", stacklevel=2)
    last = _opened(torn)
    return lines if last is None else [*lines, (torn, last)]


def _opened(text: bytes) -> dict[str, Any] | None:
    try:
        line = opened(text)
    except ValueError:
        return None
    return line if isinstance(line.get("stage"), str) and type(line.get("step")) is int else None
