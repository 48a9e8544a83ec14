"""A picture of what is left of a network: heads, value dimensions and MLP channels of every block."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lightning_vitc.figures.accuracy import number_with_unit
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import ATTN, MLP, Block, Branch
from lightning_vitc.networks.spec import ArchSpec

KEPT_ATTN, KEPT_MLP, GONE, EDGE = "#2a6fbb", "#d9822b", "#eef0f3", "#b4bac4"
WIDTH, GAP = 0.82, 0.12  # of a block in columns, between heads in heads


def architecture_figure(spec: ArchSpec, dense: ArchSpec, sources: Sequence[int] | None = None) -> Figure:
    """Draw every block of the dense network with what a compressed one keeps of it filled.

    A head is a bar as long as the share of its value dimensions that is kept; heads are stacked, and which of the
    dense heads they were is not shown. A branch that is gone is crossed out.

    Args:
        spec: the compressed network.
        dense: what it was cut from.
        sources: for every block of `spec` its number in `dense`; by default the blocks that are missing are
            taken to be the last ones, unless `spec` has as many as `dense`.

    Returns:
        A figure that is not known to pyplot; clear it after use.
    """
    places = range(spec.depth) if sources is None else sources
    blocks = [Block((None, None))] * dense.depth
    for place, block in zip(places, spec.blocks, strict=True):
        blocks[place] = block
    figure = Figure(figsize=(min(max(0.5 * dense.depth, 5.4), 14), 4.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    if any(block.branches[ATTN] for block in dense.blocks):
        attention, mlp = panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_heads(attention, blocks, dense)
        _draw_channels(mlp, blocks, dense, "MLP channels")
    else:
        (mlp,) = panels = [figure.subplots()]
        _draw_channels(mlp, blocks, dense, "inner channels")
    for boundary in accumulate(dense.depths[:-1]):
        for axes in panels:
            axes.axvline(boundary - 0.5, color=EDGE, linewidth=0.8, linestyle=":")
    figure.suptitle(_title(spec, dense), fontsize=10)
    return figure


def _draw_heads(axes: Axes, blocks: Sequence[Block], dense: ArchSpec) -> None:
    attentions = [block.branches[ATTN] for block in dense.blocks]
    most = max((attn.groups for attn in attentions if attn), default=1)
    outlines, filled = [], []
    for column, (block, full) in enumerate(zip(blocks, attentions, strict=True)):
        if full is None:
            continue
        shares = _head_shares(block.branches[ATTN], full)
        for row in range(full.groups):
            corner = (column - WIDTH / 2, row + GAP / 2)
            outlines.append(Rectangle(corner, WIDTH, 1 - GAP))
            if row < len(shares):
                filled.append(Rectangle(corner, WIDTH * shares[row], 1 - GAP))
        if not shares:
            _cross_out(axes, column, full.groups)
    axes.add_collection(PatchCollection(outlines, facecolor=GONE, edgecolor=EDGE, linewidth=0.5))
    axes.add_collection(PatchCollection(filled, facecolor=KEPT_ATTN))
    _frame(axes, len(blocks), most, "heads and value dims")


def _head_shares(attn: Branch | None, full: Branch) -> list[float]:
    """Share of the value dimensions of every head that is kept, the fullest first."""
    if attn is None:
        return []
    return sorted((dim / most for dim, most in zip(attn.pieces, full.pieces, strict=False)), reverse=True)


def _draw_channels(axes: Axes, blocks: Sequence[Block], dense: ArchSpec, label: str) -> None:
    columns, whole = range(len(blocks)), _channels(dense.blocks)
    axes.bar(columns, whole, WIDTH, color=GONE, edgecolor=EDGE, linewidth=0.5)
    axes.bar(columns, _channels(blocks), WIDTH, color=KEPT_MLP)
    for column, block, full in zip(columns, blocks, whole, strict=True):
        if block.branches[MLP] is None and full:
            _cross_out(axes, column, full)
    most = max(whole)
    _frame(axes, len(blocks), most or 1, label)
    axes.set_xlabel("block")


def _channels(blocks: Sequence[Block]) -> list[int]:
    mlps = (block.branches[MLP] for block in blocks)
    return [mlp.width if mlp else 0 for mlp in mlps]


def _cross_out(axes: Axes, column: int, height: float) -> None:
    left, right = column - WIDTH / 2, column + WIDTH / 2
    for heights in ([0, height], [height, 0]):
        axes.plot([left, right], heights, color=EDGE, linewidth=1, zorder=3)


def _frame(axes: Axes, depth: int, most: int, label: str) -> None:
    axes.set(xlim=(-0.6, depth - 0.4), ylim=(0, most * 1.03), ylabel=label)
    step = max(1, depth // 24)
    axes.set_xticks(range(0, depth, step))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _title(spec: ArchSpec, dense: ArchSpec) -> str:
    ours, whole = costs.macs(spec), costs.macs(dense)
    counts = [f"{number_with_unit(ours)} of {number_with_unit(whole)} MACs ({100 * ours / whole:.1f} %)"]
    if spec.is_gated:
        counts.append("where every branch runs")
    if spec.widths != dense.widths:
        ours_wide, all_wide = ("/".join(map(str, one.widths)) for one in (spec, dense))
        counts.append(f"embedding {ours_wide} of {all_wide}")
    name = dense.name if replace(spec, name=dense.name) == dense else f"compressed {dense.name}"
    return f"{name}\n{', '.join(counts)}"
