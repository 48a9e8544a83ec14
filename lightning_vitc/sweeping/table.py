"""What the runs of a sweep say together: mean and standard deviation over seeds, as a table, a CSV and a picture."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lightning_vitc.figures.accuracy import Spread, accuracy_with_spread
from lightning_vitc.networks.units import Unit
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.sweeping.combinations import NAMELESS, Combination

SEED = "seed"
COLUMNS = ("network", "width", "macs", "share", "params", "top1", "top5", "dense_top1", "wall_seconds")


@dataclass(frozen=True)
class Point:
    """One network of a sweep over its seeds.

    Attributes:
        values: of the keys that differ, without the seed.
        network: its name in the tables of its runs.
        rows: of the CSV, one a seed.
    """

    values: dict[str, str]
    network: str
    rows: list[dict[str, Any]]

    def mean(self, column: str) -> float:
        """Over seeds."""
        return statistics.fmean(row[column] for row in self.rows)

    def spread(self, column: str) -> float:
        """The sample standard deviation over seeds; 0 of a single one."""
        values = [row[column] for row in self.rows]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def rows_of(runs: Sequence[Combination]) -> list[dict[str, Any]]:
    """A row for every network of every run that is complete."""
    rows = []
    for run in runs:
        directory = RunDirectory(run.directory)
        if directory.is_complete():
            result = directory.read_result()
            dense = result["dense"] or {}
            for row in result["rows"] or [dense]:
                macs = row.get("expected_macs", row["macs"])
                rows.append({
                    "run": str(run.directory), **run.values, SEED: run.experiment.seed, "network": row["name"],
                    "width": row.get("width"), "macs": macs, "share": macs / dense["macs"] if dense else None,
                    "params": row["params"], "top1": row["top1"], "top5": row["top5"],
                    "dense_top1": dense.get("top1"), "wall_seconds": result["wall_seconds"],
                })  # fmt: skip
    return rows


def points_of(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[Point]:
    """Rows that differ in their seed alone are one point.

    Args:
        rows: of `rows_of`.
        keys: that differ between runs.
    """
    keys = [key for key in keys if key != SEED]
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((*(row[key] for key in keys), row["network"]), []).append(row)
    return [Point(dict(zip(keys, values, strict=False)), values[-1], rows) for values, rows in grouped.items()]


def table(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Header and cells."""
    keys = list(points[0].values) if points else []
    header = [*keys, "network", "MACs", "of dense", "parameters", "top-1", "of dense", "n"]
    unit = Unit.of(point.mean("macs") for point in points)
    return header, [[*point.values.values(), point.network, *_numbers(point, unit)] for point in points]


def _numbers(point: Point, unit: Unit) -> list[str]:
    first = point.rows[0]
    share = "" if first["share"] is None else f"{point.mean('share'):.1%}"
    dense = "" if first["dense_top1"] is None else _with_spread(point, "dense_top1")
    return [unit.shown(point.mean("macs")), share, f"{point.mean('params'):,.0f}", _with_spread(point, "top1"),
            dense, str(len(point.rows))]  # fmt: skip


def _with_spread(point: Point, column: str) -> str:
    spread = f" ± {point.spread(column):.2f}" if len(point.rows) > 1 else ""
    return f"{point.mean(column):.2f}{spread}"


def as_csv(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> str:
    """Every network of every run."""
    out = io.StringIO()
    names = ["run", *dict.fromkeys([*keys, SEED]), *COLUMNS]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def picture(points: Sequence[Point], title: str) -> Figure:
    """Top-1 over MACs with the standard deviation over seeds; what differs beside budget and seed is a series."""
    series: dict[str, list[Spread]] = {}
    for point in points:
        values = [value if key == NAMELESS else f"{key.rpartition('.')[2]} {value}"
                  for key, value in point.values.items() if not key.startswith("budget.")]  # fmt: skip
        series.setdefault(", ".join(values) or title, []).append(
            Spread(point.mean("macs"), point.mean("top1"), point.spread("top1"))
        )
    return accuracy_with_spread(series, title)
