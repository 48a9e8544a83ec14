"""The end of a run: rows, `result.json`, the table and the picture."""

import dataclasses
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lightning_vitc.figures.accuracy import accuracy_over_macs
from lightning_vitc.figures.architecture import architecture_figure
from lightning_vitc.figures.png import png_of, show
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.units import Unit
from lightning_vitc.runs.directory import write_json
from lightning_vitc.runs.tensorboard import cleared_board
from lightning_vitc.schema.split_names import VALIDATION, WORDS, evaluated_on, split_of

if TYPE_CHECKING:
    from lightning_vitc.runs.networks import Network

COMMON = ("name", "macs", "params", "top1", "top5", "bytes", "width")  # a width is in the name of its row
PICTURE = "accuracy_over_macs.png"
PACKAGES = ("lightning-vitc", "torch", "timm", "lightning", "torchmetrics", "omegaconf", "numpy")


@dataclasses.dataclass
class Row:
    """One network of the final table; accuracies in percent, `columns` those that only its method has."""

    name: str
    macs: int
    params: int
    top1: float
    top5: float
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON of a row; `bytes` are those of its weights in fp32."""
        values = dataclasses.asdict(self)
        columns = values.pop("columns")
        return values | {"bytes": 4 * self.params} | columns


def result_document(*, experiment: str, method: str, seed: int, seconds: float, dense: Row | None,
                    rows: Sequence[Row], device: str, split: str = "test", images: int = 0, left_out: int = 0,
                    classes: Sequence[str] = (), counts: dict[str, Any] | None = None,
                    budget: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    """The content of `result.json`.

    Its `classes` are the names of class 0, 1, ...; `data` counts the images and classes of every split by its true
    name; `split` is that of the split whose `images` were evaluated, and `left_out` are those that cannot be used.
    """
    return {
        "experiment": experiment,
        "method": method,
        "seed": seed,
        "split": split,
        "images": images,
        "left_out": left_out,
        "data": counts or {},
        "classes": list(classes),
        "wall_seconds": round(seconds, 1),
        "dense": None if dense is None else dense.as_dict(),
        "rows": [row.as_dict() for row in rows],
        "budget": budget or {},
        "environment": environment(device),
    }


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and commit that produced a number."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, marked `-dirty` where its files differ; or `None`.

    Documents do not count: the studies write their tables into them.
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = commit and _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)docs")
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_result(path: Path, document: dict[str, Any]) -> None:
    """Write `result.json`."""
    write_json(path, document)


def write_picture(directory: Path, document: dict[str, Any]) -> None:
    """Save accuracy over MACs beside the dense model."""
    write_atomically(directory / PICTURE, png_of(_picture(document)))


def _picture(document: dict[str, Any]) -> Figure:
    series = {document["method"]: [_point(row) for row in document["rows"]]}
    if document["dense"] is not None:
        series["dense"] = [_point(document["dense"])]
    return accuracy_over_macs(series, title=f"{document['experiment']}, {WORDS[split_of(document)]}")


def write_architectures(directory: Path, networks: Sequence["Network"], dense: ArchSpec) -> None:
    """Draw every network that was cut inside its blocks, into the run's directory and into TensorBoard."""
    logger = TensorBoardLogger(directory, name="tensorboard", version="result", default_hp_metric=False)
    for network in networks:
        spec = network.spec
        if spec.widths == dense.widths and spec.blocks != dense.blocks:
            png = png_of(architecture_figure(spec, dense, network.sources))
            write_atomically(directory / f"architecture_{network.name}.png", png)
            show(logger, f"architecture/{network.name}", png)
    logger.finalize("success")


def log_to_tensorboard(directory: Path, document: dict[str, Any], hyperparameters: Mapping[str, Any]) -> None:
    """Add the final accuracies beside the hyperparameters, and the picture that `write_picture` has saved."""
    logger = cleared_board(directory, "result")
    rows = document["rows"] + ([document["dense"]] if document["dense"] else [])
    metric = f"{split_of(document).replace(VALIDATION, 'val')}_top1"
    logger.log_hyperparams(dict(hyperparameters), {f"{row['name']}/{metric}": row["top1"] for row in rows})
    show(logger, "accuracy_over_macs", (directory / PICTURE).read_bytes())
    logger.finalize("success")


def print_table(document: dict[str, Any], console: Console | None = None) -> None:
    """Print the final table."""
    table = Table()
    table.add_column("network")
    dense = document["dense"]
    own = list(dict.fromkeys(key for row in document["rows"] for key in row if key not in COMMON))
    for title in ("MACs", "% of dense", "params", "top-1 %", "top-5 %", *map(_title, own)):
        table.add_column(title, justify="right")
    reference = dense["macs"] if dense else max(row["macs"] for row in document["rows"])
    rows = ([dense] if dense else []) + document["rows"]
    unit = Unit.of(row["macs"] for row in rows)
    for row in rows:
        cells = [row["name"], unit.shown(row["macs"]), f"{100 * row['macs'] / reference:.1f}", f"{row['params']:,}"]
        cells += [f"{row['top1']:.2f}", f"{row['top5']:.2f}", *(_cell(key, row.get(key), unit) for key in own)]
        table.add_row(*cells, end_section=row is dense)
    console = console or _wide_console()
    console.print(f"{document['experiment']} (seed {document['seed']}), {evaluated_on(document)}", soft_wrap=True)
    console.print(table)


def _wide_console() -> Console:
    """A file has room for every column."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=max(console.width, 120))


def _title(key: str) -> str:
    return key.replace("_percent", " %").replace("_", " ")


def _cell(key: str, value: Any, of_macs: Unit) -> str:
    if key.endswith("_macs") and value is not None:
        return of_macs.shown(value)
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)


def _point(row: dict[str, Any]) -> tuple[str, int, float]:
    return row["name"], row["macs"], row["top1"]
