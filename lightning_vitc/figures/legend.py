"""A legend below a plot that is whole however long it is, and an axis label that fits beside one."""

import textwrap

from matplotlib.figure import Figure

LINE = 36  # characters of a label that fit beside a plot


def legend_below(figure: Figure, plot_height: float) -> None:
    """Put it there, in as many columns as there is room for; the figure grows by its rows.

    Args:
        figure: with one plot, at its least height.
        plot_height: inches of what is above the legend.
    """
    for columns in (3, 2, 1):
        legend = figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(max(figure.get_figheight(), plot_height + box.height / figure.dpi))


def in_lines(label: str) -> str:
    """A label in as many lines as it takes."""
    return "\n".join(textwrap.wrap(label, LINE))
