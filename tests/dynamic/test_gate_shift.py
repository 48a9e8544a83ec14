"""Gates are moved onto a budget, and no further than that takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_vitc import costs
from lightning_vitc.dynamic import gate_shift as moving
from lightning_vitc.dynamic.gate_shift import FIRST, Moving, closest_within
from lightning_vitc.dynamic.rate_evaluation import RateEvaluation
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.gates.attaching import gates_of


@pytest.mark.parametrize(("start", "limit"), [(80.0, 73.0), (70.0, 73.0)])
def test_the_budget_is_met_from_both_sides(start: float, limit: float) -> None:
    asked: list[float] = []

    def expected(shift: float) -> float:
        asked.append(shift)
        return max(start - 11 * shift, 0.0)

    shift = closest_within(expected, limit, spend=True)
    assert 0.995 * limit <= expected(shift) <= limit
    assert len(asked) < 15


def test_a_network_within_its_budget_is_left_as_it_was_trained() -> None:
    assert closest_within(lambda shift: 60.0 - shift, 73.0) == 0.0
    assert closest_within(lambda shift: 71.0 - shift, 73.0, spend=True) == 0.0, "nearly all is spent"


def test_gates_that_cannot_be_moved_enough() -> None:
    assert closest_within(lambda shift: 60.0, 73.0, spend=True) == 0.0  # everything runs already
    assert closest_within(lambda shift: 70.0 if shift > 1000 else 90.0, 73.0) > 1000  # however sure they are
    with pytest.raises(RuntimeError, match=r"^gates that skip everything still cost 90, beyond the 73$"):
        closest_within(lambda shift: 90.0, 73.0)
    steps = {True: 90.0, False: 40.0}  # all or nothing
    assert closest_within(lambda shift: steps[shift < 1.3], 73.0) == pytest.approx(1.3, abs=0.01)


def test_where_the_cost_does_not_fall_with_the_shift_the_first_crossing_counts() -> None:
    """A branch that is skipped changes what the gates after it see, which may then run more."""

    def expected(shift: float) -> float:
        return 80.0 - 60 * shift if shift < 0.25 else 85.0 if shift < 3 else 60.0

    shift = closest_within(expected, 73.0)
    assert FIRST < shift < 0.25
    assert 0.995 * 73 <= expected(shift) <= 73


def test_up_it_may_cost_less_before_it_costs_more() -> None:
    shift = closest_within(lambda shift: 70.0 - 10 * max(0.0, min(-shift, 1.0)) + 6 * max(0.0, -shift - 1), 73.0, True)
    assert -3.2 < shift < -3.0


class Evaluating:
    """In the place of a trainer, over a batch at hand."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def test(self, evaluation: Any, batches: Any, verbose: bool) -> None:
        evaluation.trainer = SimpleNamespace(world_size=1)
        evaluation.on_test_epoch_start()
        with torch.no_grad():
            for number, batch in enumerate(batches):
                evaluation.test_step(batch, number)
        evaluation.on_test_epoch_end()


@pytest.fixture
def moves(gated: Backbone, monkeypatch: Any) -> Moving:
    """Of a network whose first gate runs for every image, on the edge, and whose other gates decide by the image."""
    torch.manual_seed(0)
    for gate in gates_of(gated):
        torch.nn.init.normal_(gate.last.weight)
        torch.nn.init.zeros_(gate.last.bias)
    edge = gates_of(gated)[0].last
    torch.nn.init.zeros_(edge.weight)
    edge.bias.data.copy_(torch.tensor([0.0, 0.01]))
    monkeypatch.setattr(moving, "test_trainer", Evaluating)
    batch = torch.randn(64, 1, 8, 8), torch.zeros(64, dtype=torch.long)
    run = SimpleNamespace(data=SimpleNamespace(loader_of=lambda split: [batch]), experiment=None)
    dense = costs.macs(gated.spec)
    return Moving(run, RateEvaluation(gated, DynamicTargets(dense, dense, None)))


def test_a_gate_on_the_edge_is_not_turned_over_for_all_images(moves: Moving) -> None:
    before, edge = moves.cost(0.0), gates_of(moves.evaluation.network)[0].last
    shift = moves.within(int(0.97 * before))
    assert shift > 0.01, "as far as would turn it over"
    assert not moves.which[0]
    assert edge.bias.tolist() == pytest.approx([0.0, 0.01])
    assert 0.9 * before < moves.evaluation.spent <= 0.97 * before
    assert set(moves.top1) >= {0.0, shift}


def test_where_the_others_do_not_reach_far_enough_every_gate_moves(moves: Moving) -> None:
    limit = int(moves.evaluation.budgeted.fixed)  # everything is skipped
    moves.within(limit)
    assert all(moves.which)
    assert moves.evaluation.spent <= limit
