"""Gates are moved onto a budget, and no further than that takes."""

import pytest

from lightning_vitc.dynamic.moving import FIRST, closest_within


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
