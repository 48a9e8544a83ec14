"""The verdict on a budget: of every limit for itself, and what is said of the one that is out of reach."""

import pytest

from lightning_vitc.budget.plan import Plan, Reachable
from lightning_vitc.errors import UserError
from lightning_vitc.schema import BudgetConfig


def plan_of(macs: int, static: int, refusal: str | None = None) -> Plan:
    further = {"static": Plan("macs", static, Reachable(40, 100, 1))}
    return Plan("macs", macs, Reachable(10, 100, 1), further=further, refusal=refusal)


@pytest.mark.parametrize(
    ("macs", "static", "reached"),
    [
        (10, 40, [True, True]), (9, 70, [False, True]), (30, 39, [True, False]), (9, 39, [False, False]),
        (100, 100, [True, True]),
    ],
)  # fmt: skip
def test_each_limit_has_its_own_verdict(macs: int, static: int, reached: list[bool]) -> None:
    plan = plan_of(macs, static)
    assert list(plan.limits) == ["macs", "static"]
    assert [part.reached for part in plan.limits.values()] == reached
    assert plan.satisfiable == all(reached)


def test_the_line_names_the_key_that_is_out_of_reach_and_what_is_not() -> None:
    plan_of(10, 40).check(BudgetConfig(macs="10%", static=40_000))
    for budget, said in ((BudgetConfig(static="39%"), "39% is 39"), (BudgetConfig(macs="30%"), "by default 39")):
        with pytest.raises(UserError) as refused:
            plan_of(30, 39).check(budget)
        assert str(refused.value) == f"budget.static: {said}, out of reach; this method reaches 40 to 100"


def test_what_two_ends_do_not_tell_is_said_by_the_method() -> None:
    plan = plan_of(50, 70, refusal="budget.macs: 50 lies in a gap")
    assert not plan.satisfiable
    with pytest.raises(UserError, match=r"^budget\.macs: 50 lies in a gap$"):
        plan.check(BudgetConfig(macs=50_000))


def test_a_limit_above_all_that_can_be_made_is_kept_to() -> None:
    """Methods that always remove something: what they leave is less than such a budget."""
    assert Plan("macs", 99, Reachable(10, 90, 10)).reached
