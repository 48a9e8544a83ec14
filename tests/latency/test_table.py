"""The table predicts what it was measured from, and its linear costs add up to the dense network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_vitc.budget.masks import Masks
from lightning_vitc.latency.meter import Meter
from lightning_vitc.latency.place import Place
from lightning_vitc.latency.table import LatencyTable, knots, knots_of_dims, points_of
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.families.uniformer.names import NAMES

ATTN = attention(16, (16,) * 6)
SPEC = vit("small", (32, 32), (8, 8), 3, 10, 96, (vit_block(ATTN, 384),) * 5, 0.25)
METER = Meter(SPEC, Place())


@pytest.mark.parametrize(("size", "where"), [(1, [1]), (3, [1, 2, 3]), (6, [1, 2, 3, 4, 6]),
                                             (64, [1, 8, 16, 32, 48, 64])])  # fmt: skip
def test_knots(size, where):
    assert knots(size) == where


def test_values_narrower_than_the_whole_have_a_knot_just_below_it():
    assert knots_of_dims(16) == [1, 8, 15, 16]
    assert knots_of_dims(1) == [1]


@pytest.mark.parametrize("blocks", [
    SPEC.blocks, SPEC.blocks[:2], (vit_block(None, 100),), (vit_block(attention(16, (16, 3, 9)), None),),
    (vit_block(attention(16, (7,)), 1), vit_block(attention(16, (16,) * 5), 383)),
    (vit_block(ATTN, 384).with_gates(("relu", "relu")), vit_block(None, 64).with_gates((None, "relu"))),
])  # fmt: skip
def test_a_linear_world_is_predicted_exactly(clock, blocks):
    spec = SPEC.with_stage(*blocks)
    table = METER.table(gates=["relu"])
    assert table.measure(spec) == pytest.approx(1e6 * 1.5 * clock.milliseconds(spec), rel=0.001)
    assert table.measure(SPEC) == pytest.approx(table.dense, abs=2)


def test_a_world_with_steps_is_predicted_at_its_steps(clock):
    """As a GPU that computes in tiles: the time of an MLP moves in steps of 96 units."""
    clock.milliseconds = lambda spec: (
        1.0 + sum(-(-(block.branches[1].width if block.branches[1] else 0) // 96) for block in spec.blocks)
    )
    table = METER.table()
    for units in (96, 192, 288, 384):
        spec = SPEC.with_stage(*[vit_block(None, units)] * 3)
        assert table.measure(spec) == pytest.approx(1.5e6 * clock.milliseconds(spec), rel=0.001)


def test_noise_never_makes_more_faster(clock):
    clock.milliseconds = lambda spec: 1.0 + sum(5 if branch.width == 192 else 4 for _, _, branch in spec.branches())
    table = METER.table()
    times = [table.stacks[0].hidden(units) for units in range(1, 385)]
    assert times == sorted(times)


def test_another_embedding_width_is_not_in_it(clock):
    with pytest.raises(ValueError, match="widths \\(96,\\) says nothing about \\(48,\\)"):
        METER.table().measure(SPEC.at_width(0.5))


def test_gates_are_on_the_scale_of_the_dense_network():
    """An attention takes 800, an MLP 400 and a gate 80, in stacks of four; all of the network twice as long as that."""
    measured = {}
    for name, spec in points_of(SPEC, ["relu"]).items():
        branches = [
            (time, branch) for block in spec.blocks for time, branch in zip((800, 400), block.branches, strict=True)
        ]
        measured[name] = 1000 + sum(time + 80 * (branch.gate is not None) for time, branch in branches if branch)
    table = LatencyTable.of(SPEC, measured | {"dense": 1000 + 2 * 5 * 1200}, ["relu"])
    assert table.stacks[0].gates == {"relu": 160}


# The linear costs


def test_a_linear_world_gives_its_own_unit_costs(clock):
    (units,) = METER.table().unit_costs.stacks
    scale = 1.5e6 * SPEC.embed_dim
    assert units.head == pytest.approx(0.2 * scale, rel=0.001)
    assert units.dim == pytest.approx(0.004 * scale, rel=0.001)
    assert units.channel == pytest.approx(0.001 * scale, rel=0.001)
    assert units.attn == pytest.approx(0.05 * scale, rel=0.01)
    assert units.mlp == pytest.approx(0.03 * scale, rel=0.01)


@given(st.lists(st.integers(100_000, 9_000_000), min_size=60, max_size=60))
def test_whatever_was_measured_they_are_whole_positive_and_add_up_to_dense(times):
    names = ["dense", *points_of(SPEC)]
    table = LatencyTable.of(SPEC, dict(zip(names, times, strict=False)))
    units, (parts,) = table.unit_costs, table.unit_costs.stacks
    assert min(parts.head, parts.dim, parts.channel) >= 1
    assert all(isinstance(value, int) for name, value in vars(parts).items() if name != "stack")
    assert units.total(Masks.full(SPEC)) == units.dense == table.dense


def test_of_stages_that_differ_in_kind(clock):
    """Mixers before attentions, and positions that are there without branches too."""
    spec = NAMES["uniformer_small_plus"](img_size=32, embed_dim=(8, 16, 16, 24), depths=(1, 2, 2, 1), num_heads=(2, 3))
    clock.milliseconds = lambda spec: 1.0 + costs.macs(spec) / 1e6
    table = Meter(spec, Place()).table()
    for small in (
        spec, spec.without_branches(), spec.with_block(0, spec.blocks[0].with_branch(0, None)),
        spec.with_block(2, spec.blocks[2].with_branch(0, spec.blocks[2].branches[0].of_pieces(8))),
        spec.with_block(3, spec.blocks[3].with_branch(1, None)),
    ):  # fmt: skip
        assert table.measure(small) == pytest.approx(1.5e6 * clock.milliseconds(small), rel=0.002)
