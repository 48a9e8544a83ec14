import pytest
from matplotlib.patches import Rectangle

from lightning_vitc.figures.architecture import architecture_figure
from lightning_vitc.networks.blocks import attention, convolutions
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.spec import ArchSpec

FULL = vit_block(attention(16, (16,) * 4), 256)
DENSE = vit("vit", (32, 32), (8, 8), 3, 10, 64, (FULL,) * 4, 0.25)
RAGGED = vit_block(attention(16, (8, 16)), 64)


def bars(spec: ArchSpec, **options) -> tuple[list[float], list[float]]:
    """Lengths of the filled heads as shares, and heights of the filled MLP bars."""
    figure = architecture_figure(spec, DENSE, **options)
    attention, mlp = figure.axes
    widths = [path.get_extents().width / 0.82 for path in attention.collections[1].get_paths()]
    heights = [patch.get_height() for patch in mlp.patches if isinstance(patch, Rectangle)][DENSE.depth :]
    return widths, heights


def crossed(spec: ArchSpec, **options) -> list[list[int]]:
    """The blocks that are crossed out, in attention and in MLP."""
    figure = architecture_figure(spec, DENSE, **options)
    return [sorted({round(sum(line.get_xdata()[:2]) / 2) for line in axes.lines}) for axes in figure.axes]


def test_heads_dimensions_and_channels_are_drawn_to_scale():
    widths, heights = bars(DENSE.with_stage(FULL, RAGGED, FULL, FULL))
    assert widths == pytest.approx([1] * 4 + [1, 0.5] + [1] * 8)
    assert heights == [256, 64, 256, 256]


def test_branches_and_blocks_that_are_gone_are_crossed_out():
    spec = DENSE.with_stage(vit_block(None, 256), vit_block(None, None), vit_block(FULL.branches[0], None), FULL)
    assert crossed(spec) == [[0, 1], [1, 2]]
    assert crossed(DENSE) == [[], []]


def test_removed_blocks_stand_where_they_were():
    spec = DENSE.with_stage(FULL, RAGGED)
    assert crossed(spec, sources=[0, 3]) == [[1, 2], [1, 2]]
    assert crossed(spec) == [[2, 3], [2, 3]]
    assert bars(spec, sources=[0, 3])[1] == [256, 0, 0, 64]


def test_the_title_says_what_is_left():
    figure = architecture_figure(DENSE.at_width(0.5), DENSE)
    assert "embedding 32 of 64" in figure.get_suptitle()
    assert figure.get_suptitle().startswith(f"compressed {DENSE.name}\n")
    assert architecture_figure(DENSE, DENSE).get_suptitle().startswith(f"{DENSE.name}\n")
    assert "(100.0 %)" in architecture_figure(DENSE, DENSE).get_suptitle()


def test_convolutions_have_one_picture():
    dense = resnet("resnet18", (2, 2), (8, 16), img_size=32)
    left = dense.with_blocks([None, *dense.blocks[1:3], convolutions("basic", 4)])
    (axes,) = architecture_figure(left, dense, sources=[1, 2, 3]).axes
    heights = [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert heights == [8, 8, 16, 16, 0, 8, 16, 4]
    assert axes.get_ylabel() == "inner channels"
    assert {round(sum(line.get_xdata()[:2]) / 2) for line in axes.lines if line.get_linestyle() == "-"} == {0}
