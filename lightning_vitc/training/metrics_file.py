"""A logger that appends every logged scalar to `metrics.jsonl`."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lightning_vitc.training.checkpoints import write_atomically


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
            file.write(json.dumps(line) + "\n")

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Drop this stage's lines of step number `step` and later, which are logged again; a torn last line too."""
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if self._is_before(line, step)]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())

    def _is_before(self, line: str, step: int) -> bool:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return False
        return entry["stage"] != self.stage or entry["step"] < step
