"""What `vitc plan` says can be reached is what the search can decide for, and nothing less."""

import pytest

from lightning_vitc import costs
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.reachable import least_blocks, multiples, reachable_of, smallest
from lightning_vitc.budget.target import Target
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.schema import BudgetConfig, MinKeepConfig

BLOCK = vit_block(attention(16, (16,) * 6), 384)
SPEC = vit("small", (8, 8), (2, 2), 1, 10, 96, (BLOCK,) * 8, 0.25)
COSTS = UnitCosts.of(SPEC)
(PART,) = COSTS.stacks


def reach(
    ratio: float, least: MinKeepConfig | None = None, round_to: int = 1, **options: object
) -> tuple[int, int, int]:
    budget = BudgetConfig(min_keep=least or MinKeepConfig(), round_to=round_to)
    target = Target("macs", int(ratio * COSTS.dense), COSTS.dense)
    settings = {"prune": True, "skip": True, "share": 0.5} | options
    found = reachable_of(SPEC, COSTS, budget, target, **settings)  # type: ignore[arg-type]
    return found.least, found.most, found.step


@pytest.mark.parametrize(
    ("ratio", "share", "blocks"),
    [(0.5, 0.5, 6), (0.5, 1.0, 4), (0.3, 0.5, 6), (0.7, 0.5, 7), (0.0, 1.0, 1), (0.5, None, 1)],
)
def test_blocks_that_stay(ratio: float, share: float | None, blocks: int) -> None:
    assert least_blocks(None, share, ratio, 8) == blocks
    assert least_blocks(3, share, ratio, 8) == 3


def test_the_reach_does_not_move_with_the_target() -> None:
    assert len({reach(ratio) for ratio in (0.1, 0.3, 0.5, 0.9)}) == 1


def test_a_step_of_skipping_alone_is_a_block() -> None:
    block = costs.macs(SPEC) - costs.macs(SPEC.with_stage(*SPEC.blocks[1:]))
    assert reach(0.5, prune=False, share=None)[2] == block


def test_a_plan_says_which_multiple_and_what_would_be_faster() -> None:
    assert multiples(SPEC, BudgetConfig()) == {"round_to": 8}
    assert multiples(SPEC, BudgetConfig(round_to=16)) == {"round_to": 16}
    hint = "budget.round_to=8 is faster at the same MACs"
    assert multiples(SPEC, BudgetConfig(round_to=4)) == {"round_to": 4, "hint": hint}
    assert multiples(SPEC, BudgetConfig(round_to=12)) == {"round_to": 12, "hint": hint}


def test_skipping_alone_reaches_one_block() -> None:
    masks = Masks.full(SPEC)
    masks.branches[1:] = False
    assert reach(0.5, prune=False, share=None)[0] == COSTS.total(masks)


def test_pruning_alone_reaches_what_the_minima_leave() -> None:
    budget = BudgetConfig(round_to=1)
    assert reach(0.5, skip=False)[0] == COSTS.total(smallest(Masks.full(SPEC), COSTS, budget))


def test_large_minima_make_a_target_unreachable_by_the_blocks_that_stay_for_it() -> None:
    least = MinKeepConfig(heads=6, dims=16, channels=300)
    low, _, _ = reach(0.3, least)
    assert low > 0.3 * COSTS.dense


def test_the_step_is_a_head_where_the_minima_leave_nothing_smaller() -> None:
    assert reach(0.5)[2] == max(PART.dim, PART.channel)
    assert reach(0.5, round_to=8)[2] == 8 * max(PART.dim, PART.channel)
    assert reach(0.5, MinKeepConfig(dims=16, channels=384))[2] == PART.head + 16 * PART.dim
