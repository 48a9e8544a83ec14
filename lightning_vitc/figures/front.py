"""Accuracy over cost: the points of many runs, their Pareto front, and the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lightning_vitc.figures.accuracy import SERIES_COLORS, widen
from lightning_vitc.figures.legend import in_lines, legend_below
from lightning_vitc.figures.markers import DOTS, STARS, marker_sizes

FRONT, DENSE = "#cfd4db", "#1f2430"
WIDTH, HEIGHT, PLOT_HEIGHT = 5.4, 4.2, 3.75  # inches: of the figure, at least, and of what is above the legend
LONGEST_LABEL = 60  # characters
DOT, STAR = 6, 14  # points


@dataclass(frozen=True)
class Point:
    """A network in the picture: its cost, and top-1 in percent, over seeds where there are several."""

    label: str
    series: str
    cost: float
    top1: float
    dense: bool = False
    spread: float = 0.0  # standard deviation of top-1 over seeds


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in one of cost and accuracy without being worse in the other; cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def front_figure(points: Sequence[Point], xlabel: str, ylabel: str = "top-1 (%)") -> Figure:
    """Every point, a line for a series, stars for dense networks, and the front behind them.

    Args:
        points: of all runs.
        xlabel: what the cost is, with its unit.
        ylabel: what the accuracy was measured on.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    front = pareto_front(points)
    if len(front) > 1:
        axes.plot([point.cost for point in front], [point.top1 for point in front], color=FRONT, linewidth=7,
                  solid_capstyle="round", solid_joinstyle="round", label="Pareto front", zorder=1)  # fmt: skip
    sizes = _sizes(points)
    for number, series in enumerate(dict.fromkeys(point.series for point in points)):
        again, color = divmod(number, len(SERIES_COLORS))
        ours = [point for point in points if point.series == series]
        _draw_series(axes, ours, sizes, SERIES_COLORS[color], again)
    if any(point.dense for point in points):
        axes.plot([], [], "*", color="white", markersize=STAR, markeredgecolor=DENSE, label="dense")
    _label(axes, front, largest := max(point.cost for point in points))
    axes.set(xlabel=xlabel, ylabel=in_lines(ylabel))
    axes.set_xlim(0, 1.06 * largest)
    axes.margins(y=0.12)
    widen(axes)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, PLOT_HEIGHT)
    return figure


def _label(axes: Axes, front: Sequence[Point], largest: float) -> None:
    """Name the points of the front, on the side where there is room."""
    for point in front:
        side, place = ("right", (-7, -8)) if point.cost > 0.8 * largest else ("left", (7, -8))
        text = axes.annotate(
            point.label, (point.cost, point.top1), place, textcoords="offset points", fontsize=7, ha=side
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _draw_series(axes: Axes, points: Sequence[Point], sizes: Mapping[Point, float], color: str, again: int) -> None:
    """A line through the networks of a run, and stars for its dense ones, which lie below.

    Args:
        axes: to draw on.
        points: of the run.
        sizes: of all markers.
        color: of the run.
        again: runs that have had this color.
    """
    ours = sorted(points, key=lambda point: point.cost)
    plain, dense = ([point for point in ours if point.dense == is_dense] for is_dense in (False, True))
    named = _shortened(points[0].series)
    line: dict[str, Any] = dict(marker=DOTS[again % len(DOTS)], markersize=DOT, linewidth=1.4, zorder=3)
    stars: dict[str, Any] = dict(marker=STARS[again % len(STARS)], markersize=STAR, markeredgecolor=DENSE,
                                 markeredgewidth=0.7, linestyle="none", zorder=2)  # fmt: skip
    several = [(point.cost, point.top1, point.spread) for point in ours if point.spread]
    bars: dict[str, Any] = dict(fmt="none", ecolor=color, elinewidth=1, capsize=2, zorder=2)
    if several:
        costs, means, deviations = zip(*several, strict=True)
        axes.errorbar(costs, means, deviations, **bars)
    for group, look in ((plain, line), (dense, stars)):
        whole = [number for number, point in enumerate(group) if sizes[point] == look["markersize"]]
        axes.plot([point.cost for point in group], [point.top1 for point in group], color=color, markevery=whole,
                  label=named if group is (plain or dense) else None, **look)  # fmt: skip
        for number, point in enumerate(group):
            if number not in whole:
                smaller = {"markersize": sizes[point], "markeredgewidth": 0.4, "linestyle": "none", "zorder": 4}
                axes.plot([point.cost], [point.top1], color=color, **look | smaller)


def _sizes(points: Sequence[Point]) -> dict[Point, float]:
    """Of the markers, dots and stars by themselves."""
    found: dict[Point, float] = {}
    for is_dense, size in ((False, DOT), (True, STAR)):
        kind = [point for point in points if point.dense == is_dense]
        found |= dict(zip(kind, marker_sizes([(point.cost, point.top1) for point in kind], size), strict=True))
    return found


def _shortened(series: str) -> str:
    """A run's label, at most as long as a line of the legend."""
    return series if len(series) <= LONGEST_LABEL else f"{series[:20]} ... {series[-LONGEST_LABEL + 25 :]}"
