"""The end of a run with gates: the budget is met, and the extreme images are those of all processes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_vitc.backbone import Backbone
from lightning_vitc.dynamic.report import SHOWN, RateEvaluation, closest_within
from lightning_vitc.dynamic.targets import DynamicTargets


@pytest.mark.parametrize(("start", "limit"), [(80.0, 73.0), (70.0, 73.0), (72.9, 73.0)])
def test_the_budget_is_met_from_both_sides(start: float, limit: float) -> None:
    asked: list[float] = []

    def expected(shift: float) -> float:
        asked.append(shift)
        return max(start - 11 * shift, 0.0)

    shift = closest_within(expected, limit)
    assert 0.995 * limit <= expected(shift) <= limit
    assert len(asked) < 12


def test_gates_that_cannot_be_moved_enough() -> None:
    assert closest_within(lambda shift: 60.0, 73.0) == 0.0  # everything runs already
    assert closest_within(lambda shift: 70.0 if shift > 1000 else 90.0, 73.0) > 1000  # however sure they are
    with pytest.raises(RuntimeError, match=r"^gates that skip everything still cost 90, beyond the 73$"):
        closest_within(lambda shift: 90.0, 73.0)
    steps = {True: 90.0, False: 40.0}  # all or nothing
    assert closest_within(lambda shift: steps[shift < 1.3], 73.0) == pytest.approx(1.3, abs=0.01)


def test_the_extreme_images_of_two_processes_with_unlike_counts(gated: Backbone, monkeypatch: Any) -> None:
    """As those of one process with all of the images."""
    images, labels = torch.randn(SHOWN + 8, 1, 8, 8), torch.zeros(SHOWN + 8, dtype=torch.long)

    def evaluated(part: slice) -> RateEvaluation:
        found = RateEvaluation(gated, DynamicTargets(1, 1, None))
        with torch.no_grad():
            found.test_step((images[part], labels[part]), 0)
        return found

    first, second, whole = evaluated(slice(SHOWN + 3)), evaluated(slice(SHOWN + 3, None)), evaluated(slice(None))
    sent: list[Any] = []
    monkeypatch.setattr(RateEvaluation, "all_gather", lambda self, mine: sent.append(mine) or sent[-1])
    second.trainer = SimpleNamespace(world_size=2)
    second.on_test_epoch_end()
    monkeypatch.setattr(RateEvaluation, "all_gather", lambda self, mine: [
        tuple(torch.stack(both) for both in zip(one, other, strict=True))
        for one, other in zip(mine, sent[0], strict=True)
    ])  # fmt: skip
    first.trainer = SimpleNamespace(world_size=2)
    first.on_test_epoch_end()
    for (_, macs), (_, wanted) in zip(first.extremes, whole.extremes, strict=True):
        assert macs.tolist() == wanted.tolist()
    assert len(first.extremes[0][0]) == SHOWN
