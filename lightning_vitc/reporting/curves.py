"""Training curves of a run, from its `metrics.jsonl`."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_vitc.figures.accuracy import SERIES_COLORS
from lightning_vitc.figures.legend import legend_below
from lightning_vitc.figures.markers import marker_sizes
from lightning_vitc.runs.metrics_file import read_lines

Curves = dict[str, list[tuple[float, float]]]  # (steps since the run began, value) by name
LOSS, ACCURACY = "train/loss", "val_top1"
FEW = 20  # points that are shown: a single one has no line
SMALL, LARGE = 3.0, 8.0  # points: of their markers, and of single ones
STYLES = ("-", "--", ":", "-.")  # tell curves apart whose colors are the same


def read_curves(path: Path) -> tuple[Curves, Curves]:
    """Training loss by stage, and validation top-1 in percent by stage, and by network where a stage has several.

    Args:
        path: of `metrics.jsonl`; lines that are damaged are left out with a warning.
    """
    losses: Curves = {}
    accuracies: Curves = {}
    for stage, start, lines in _stages(path):
        keys = {key for line in lines for key in line if key.endswith(f"/{ACCURACY}")}
        for line in lines:
            for key, value in line.items():
                if type(value) not in (int, float) or not math.isfinite(value):
                    continue
                place = (start + line["step"], value)
                if key == LOSS:
                    losses.setdefault(stage, []).append(place)
                elif key in keys:
                    title = stage if len(keys) == 1 else f"{stage}: {key.removesuffix(f'/{ACCURACY}')}"
                    accuracies.setdefault(title, []).append(place)
    return losses, accuracies


def _stages(path: Path) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """Each stage with the number of steps before it and its lines."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for _, line in read_lines(path):
        stages.setdefault(line["stage"], []).append(line)
    start = 0
    for stage, lines in stages.items():
        yield stage, start, lines
        start += 1 + max(line["step"] for line in lines)


def curves_figure(curves: Curves, label: str) -> Figure:
    """Curves over the steps of the run.

    Args:
        curves: by name.
        label: what they show, with its unit.
    """
    figure = Figure(figsize=(5.4, 3.9), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = marker_sizes([max(places) for places in curves.values()], LARGE)
    for number, ((name, places), large) in enumerate(zip(curves.items(), ends, strict=True)):
        steps, values = zip(*sorted(places), strict=True)
        again, color = divmod(number, len(SERIES_COLORS))
        size = large if len(places) == 1 else SMALL
        axes.plot(steps, values, color=SERIES_COLORS[color], linestyle=STYLES[again % len(STYLES)], linewidth=1.3,
                  label=name, marker="o" if len(places) <= FEW else None, markersize=size)  # fmt: skip
    axes.set(xlabel="optimizer steps", ylabel=label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, plot_height=3.5)
    return figure
