"""The fit to a measured budget, with measurements that are known exactly."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_vitc.errors import UserError
from lightning_vitc.latency.fitting import CLOSE, OVER, TRIES, fit

BUDGET = 1_000_000


def tried(measure: Callable[[int], int], decide: Callable[[int], int] = lambda limit: limit):
    return fit(BUDGET, decide, measure)


def test_what_fits_at_once_is_taken() -> None:
    found = tried(lambda limit: round(0.99 * limit))
    assert (found.choice, found.measured, len(found.tries)) == (BUDGET, 990_000, 1)
    assert found.facts(BUDGET) == {"budget": 1.0, "measured": 0.99, "tries": [{"limit": 1.0, "measured": 0.99}]}


@given(st.floats(0.3, 3), st.floats(0, 0.2))
def test_a_wrong_scale_is_corrected(scale: float, fixed: float) -> None:
    found = tried(lambda limit: round(fixed * BUDGET + scale * limit))
    assert (1 - CLOSE) * BUDGET <= found.measured <= BUDGET
    assert len(found.tries) <= TRIES


def test_steps_end_at_the_largest_that_fits() -> None:
    step = 80_000
    found = tried(lambda limit: round(1.1 * limit), lambda limit: limit // step * step)
    assert found.choice == 880_000
    assert found.measured == 968_000


def test_a_choice_that_comes_again_ends_it() -> None:
    found = tried(lambda limit: 700_000, lambda limit: 5)
    assert (found.choice, len(found.tries)) == (5, 1)


def test_large_steps_are_gone_down_until_something_fits() -> None:
    step = 250_000
    found = tried(lambda limit: round(1.06 * limit), lambda limit: round(limit / step) * step)
    assert [one["measured"] for one in found.tries] == [1_060_000, 795_000]
    assert found.choice == 750_000


def test_a_little_over_is_accepted_where_nothing_is_within() -> None:
    assert tried(lambda limit: round((1 + OVER) * BUDGET), lambda limit: 5).choice == 5


def test_more_than_that_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^budget.latency_ms: 1 ms was not reached; .* measured is 1.2 ms$"):
        tried(lambda limit: 1_200_000)


def test_what_a_method_refuses_later_ends_it_and_first_is_an_error() -> None:
    def decide(limit: int) -> int:
        if limit != BUDGET:
            raise UserError("no")
        return limit

    assert tried(lambda limit: 900_000, decide).choice == BUDGET
    with pytest.raises(UserError, match="no"):
        fit(BUDGET - 1, decide, lambda limit: 1)
