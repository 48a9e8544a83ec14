"""Accuracy over cost: the points of many runs, their Pareto front, and the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lightning_vitc.figures.accuracy import SERIES_COLORS, widen

FRONT, DENSE = "#cfd4db", "#1f2430"
WIDTH, HEIGHT, PLOT_HEIGHT = 5.4, 4.2, 3.75  # inches: of the figure, at least, and of what is above the legend
LONGEST_LABEL = 60  # characters
MARKERS = "osD^vPX"  # tell runs apart whose colors are the same


@dataclass(frozen=True)
class Point:
    """A network in the picture: its cost, and top-1 in percent."""

    label: str
    series: str
    cost: float
    top1: float
    dense: bool = False


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
    axes.plot([point.cost for point in front], [point.top1 for point in front], color=FRONT, linewidth=7,
              solid_capstyle="round", solid_joinstyle="round", label="Pareto front", zorder=1)  # fmt: skip
    for number, series in enumerate(dict.fromkeys(point.series for point in points)):
        again, color = divmod(number, len(SERIES_COLORS))
        _draw_series(axes, series, points, SERIES_COLORS[color], MARKERS[again % len(MARKERS)])
    if any(point.dense for point in points):
        axes.plot([], [], "*", color="white", markersize=14, markeredgecolor=DENSE, label="dense")
    for point in front:
        text = axes.annotate(point.label, (point.cost, point.top1), (7, -8), textcoords="offset points", fontsize=7)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xlim(0, 1.06 * max(point.cost for point in points))
    axes.margins(y=0.12)
    widen(axes)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(figure)
    return figure


def _add_legend(figure: Figure) -> None:
    """Below the plot, in as many columns as there is room for; the figure grows by its rows."""
    for columns in (3, 2, 1):
        legend = figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(max(HEIGHT, PLOT_HEIGHT + box.height / figure.dpi))


def _draw_series(axes: Axes, series: str, points: Sequence[Point], color: str, marker: str) -> None:
    ours = sorted((point for point in points if point.series == series), key=lambda point: point.cost)
    plain = [point for point in ours if not point.dense]
    dense = [point for point in ours if point.dense]
    axes.plot([point.cost for point in plain], [point.top1 for point in plain], f"{marker}-", color=color, markersize=6,
              linewidth=1.4, label=_shortened(series) if plain else None, zorder=2)  # fmt: skip
    axes.plot([point.cost for point in dense], [point.top1 for point in dense], "*", color=color, markersize=14,
              markeredgecolor=DENSE, label=_shortened(series) if not plain else None, zorder=3)  # fmt: skip


def _shortened(series: str) -> str:
    """A run's label, at most as long as a line of the legend."""
    return series if len(series) <= LONGEST_LABEL else f"{series[:20]} ... {series[-LONGEST_LABEL + 25 :]}"
