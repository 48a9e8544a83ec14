"""What gates do, as pictures: run rates by block and by class, and the images that cost least and most."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torchvision.utils import make_grid

from lightning_vitc.figures.accuracy import number_with_unit

SEEN = 64  # pixels: smaller images are enlarged in the picture
PER_ROW = 12


def run_rates_figure(rates: dict[str, Tensor]) -> Figure:
    """Share of the images that run attention and MLP of each block, over all of them and class by class.

    Args:
        rates: `all` [L, 2] and `by_class` [classes, L, 2], as `RunRates.compute` gives them.

    Returns:
        A figure that is not known to pyplot; clear it after use.
    """
    overall, by_class = rates["all"].float().cpu(), rates["by_class"].float().cpu()
    depth = len(overall)
    figure = Figure(figsize=(max(5.4, 0.55 * depth + 2), 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=[1, 1.6])
    for branch, (name, color) in enumerate((("attention", "#2a6fbb"), ("MLP", "#d9822b"))):
        places = [block + 0.4 * branch - 0.2 for block in range(depth)]
        above.bar(places, 100 * overall[:, branch], 0.38, label=name, color=color)
    above.set(ylim=(0, 105), xticks=range(depth), xlabel="block", ylabel="run, % of the images")
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    shown = below.imshow(100 * by_class.flatten(1), aspect="auto", vmin=0, vmax=100, interpolation="nearest")
    labels = [f"{letter}{block}" for block in range(depth) for letter in "am"]
    below.set_xticks(range(2 * depth), labels, rotation=90, fontsize=7)
    below.set(xlabel="attention (a) and MLP (m) of each block", ylabel="class")
    below.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=min(len(by_class), 20)))
    figure.colorbar(shown, ax=below, label="run, %")
    return figure


def sheet(extremes: Sequence[tuple[Tensor, Tensor]], mean: Sequence[float], std: Sequence[float]) -> Figure:
    """The images that cost least, above those that cost most, with their range of MACs.

    Args:
        extremes: of both, normalized images [n, C, H, W] and their MACs [n].
        mean, std: of the normalization.

    Returns:
        A figure that is not known to pyplot; clear it after use.
    """
    center, width = (torch.tensor(values)[:, None, None] for values in (mean, std))
    figure = Figure(figsize=(9, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, title, (images, macs) in zip(figure.subplots(2, 1), ("cheapest", "dearest"), extremes, strict=True):
        pixels = F.interpolate((images * width + center).clamp(0, 1), scale_factor=max(1, SEEN // images.shape[-1]))
        axes.imshow(make_grid(pixels, nrow=PER_ROW, pad_value=0.5).permute(1, 2, 0), interpolation="nearest")
        low, high = (number_with_unit(float(end)) for end in (macs.min(), macs.max()))
        axes.set(
            title=f"{title}: {low} MACs" if low == high else f"{title}: {low} to {high} MACs", xticks=[], yticks=[]
        )
    return figure
