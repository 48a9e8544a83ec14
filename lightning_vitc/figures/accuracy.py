"""Pictures, drawn without a screen and closed after use."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_vitc.figures.legend import legend_below
from lightning_vitc.figures.markers import DOTS, STARS
from lightning_vitc.networks.units import Unit

LEAST_RANGE = 5.0  # percent: differences below it are not blown up to the height of the figure
SERIES_COLORS = ("#2a6fbb", "#d9822b", "#2f9e6e", "#b8485e", "#7a5cb8", "#8a6d3b", "#3aa6b9", "#c05fa0")

Point = tuple[str, int, float]  # label, MACs, top-1 in percent


def accuracy_over_macs(series: Mapping[str, Sequence[Point]], title: str = "") -> Figure:
    """Top-1 over MACs: a line for a series of several networks, a star for a single one."""
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit = Unit.of(macs for points in series.values() for _, macs, _ in points)
    for number, (name, points) in enumerate(series.items()):
        again, color = divmod(number, len(SERIES_COLORS))
        points = sorted(points, key=lambda point: point[1])
        x, y = [macs / unit.size for _, macs, _ in points], [top1 for _, _, top1 in points]
        look: dict[str, Any] = {"color": SERIES_COLORS[color], "label": name}
        if len(points) == 1:
            axes.plot(x, y, marker=STARS[again % len(STARS)], linestyle="none", markersize=13, **look)
        else:
            axes.plot(x, y, marker=DOTS[again % len(DOTS)], zorder=3, **look)  # above the star, which is larger
    axes.set(xlabel=f"{unit.letter}MACs per image", ylabel="top-1 (%)", title=title)
    axes.set_xlim(left=0)
    widen(axes)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


class Spread(NamedTuple):
    """A point over several seeds: MACs, mean top-1 and its standard deviation, in percent."""

    macs: float
    mean: float
    deviation: float


def accuracy_with_spread(series: Mapping[str, Sequence[Spread]], title: str = "") -> Figure:
    """Top-1 over MACs with error bars of one standard deviation; a line for a series of several networks."""
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit = Unit.of(int(point.macs) for points in series.values() for point in points)
    for number, (name, points) in enumerate(series.items()):
        again, color = divmod(number, len(SERIES_COLORS))
        macs, means, deviations = zip(*sorted(points), strict=True)
        axes.errorbar([each / unit.size for each in macs], means, yerr=deviations, color=SERIES_COLORS[color],
                      marker=DOTS[again % len(DOTS)], capsize=3, label=name)  # fmt: skip
    axes.set(xlabel=f"{unit.letter}MACs per image", ylabel="top-1 (%)", title=title)
    axes.set_xlim(left=0)
    widen(axes)
    axes.grid(alpha=0.3)
    legend_below(figure, figure.get_figheight())
    return figure


def widen(axes: Axes) -> None:
    """Give the vertical axis a range of at least `LEAST_RANGE` percent, at most a little above 100."""
    low, high = axes.get_ylim()
    if (missing := LEAST_RANGE - (high - low)) > 0:
        high = min(high + missing / 2, max(high, 100.5))
        axes.set_ylim(high - LEAST_RANGE, high)


def number_with_unit(count: float) -> str:
    """A large count for people: `4.62 G`, `11.9 M`, `812 k`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.3g}"
