"""What runs there are: their state, budget and accuracy, and which of them others begin with. Imports no torch."""

import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightning_vitc.config.sources import flat
from lightning_vitc.errors import UserError
from lightning_vitc.files.folder_lock import is_taken
from lightning_vitc.runs.directory import RunDirectory

BUDGETS = ("macs", "params", "latency_ms", "drop_blocks", "static")
BEGIN_WITH = ("teacher.run", "model.name", "method.trials_of")  # keys that may name another run


class Overview(NamedTuple):
    """A run in a line.

    Attributes:
        path: its directory.
        state: `complete`, `running`, `stopped`, with the stage, or `damaged`.
        experiment: its name.
        method: `method.name`.
        budget: `macs 50%`.
        top1: of its networks, in percent, from the smallest to the largest; empty where there is no result.
        split: what `top1` is of.
        changed: seconds since the epoch.
        size: of its files, in bytes.
    """

    path: str
    state: str
    experiment: str
    method: str
    budget: str
    top1: list[float]
    split: str
    changed: float
    size: int


def runs_in(places: Sequence[str]) -> list[Path]:
    """Directories of runs at and below some places, without entering a run.

    Raises:
        UserError: for a place that is not there.
    """
    found: list[Path] = []
    for place in places:
        if not Path(place).is_dir():
            raise UserError(f"{place}: no such directory; name one that holds runs")
        found += _runs_below(Path(place))
    return found


def _runs_below(place: Path) -> Iterator[Path]:
    if (place / "config.yaml").is_file():
        yield place
        return
    try:
        entries = sorted(place.iterdir())
    except OSError:  # not ours to read
        return
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _runs_below(entry)


def overview(path: Path) -> Overview:
    """A run in a line, whatever state it is in."""
    directory = RunDirectory(path)
    size, changed = _size_and_change(path)
    try:
        written = directory.written()
        result = directory.read_result() if directory.is_complete() else {}
    except UserError:
        return Overview(str(path), "damaged", path.parent.name, "", "", [], "", changed, size)
    rows = result.get("rows") or [row for row in [result.get("dense")] if row]
    return Overview(
        path=str(path), state=_state(directory), experiment=str(written.get("name") or path.parent.name),
        method=str(_section(written, "method").get("name") or ""), budget=_budget(_section(written, "budget")),
        top1=sorted(row["top1"] for row in rows if "top1" in row), split=str(result.get("split") or ""),
        changed=changed, size=size,
    )  # fmt: skip


def _size_and_change(path: Path) -> tuple[int, float]:
    """Of the files that are there while they are counted: a run may be writing."""
    size, changed = 0, 0.0
    for file in path.rglob("*"):
        with suppress(OSError):
            status = file.stat()
            if stat.S_ISREG(status.st_mode):
                size, changed = size + status.st_size, max(changed, status.st_mtime)
    return size, changed


def _state(directory: RunDirectory) -> str:
    if is_taken(directory.path):
        return "running"
    if directory.is_complete():
        return "complete"
    stages = [stage for stage in (directory.path / "checkpoints").glob("*") if not (stage / "done.json").exists()]
    return f"stopped in {max(stages, key=lambda stage: stage.stat().st_mtime).name}" if stages else "stopped"


def _section(written: dict[str, Any], name: str) -> dict[str, Any]:
    found = written.get(name)
    return found if isinstance(found, dict) else {}


def _budget(budget: dict[str, Any]) -> str:
    return ", ".join(f"{key} {budget[key]}" for key in BUDGETS if budget.get(key) is not None)


def beginning_with(run: Path) -> list[str]:
    """Other runs beside it that name it: their teacher, or what they compress, is gone with it."""
    place, found = run.resolve(), []
    beside = place.parent.parent if place.parent.name == RunDirectory(run).written().get("name") else place.parent
    for other in _runs_below(beside):
        if other == place:
            continue
        try:
            keys = flat(RunDirectory(other).written())
        except UserError:
            continue
        for key in BEGIN_WITH:
            if isinstance(named := keys.get(key), str) and "/" in named and Path(named).resolve() == place:
                found.append(f"{other} ({key})")
    return found


def age(seconds: float) -> str:
    """`3 h`: of something that was last changed so many seconds after the epoch."""
    left = max(time.time() - seconds, 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if left >= length:
            return f"{left / length:.0f} {unit}"
    return f"{left:.0f} s"
