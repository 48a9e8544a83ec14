"""What T2T-ViT-14 costs by piece, and what DC-ViT plans for it, to the last digit."""

import pytest

from lightning_vitc.budget.target import target_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.few_shot.block_plan import BlockCosts, BlockPlan, block_target, plan_blocks
from lightning_vitc.networks import costs
from lightning_vitc.networks.families.t2t.names import NAMES
from lightning_vitc.schema import BudgetConfig

SPEC = NAMES["t2t_vit_14"]()


def test_unit_costs():
    full = UnitCosts.of(SPEC)
    assert full.fixed == 298_973_696 + 384_000  # the token module and the classifier, which nothing prunes
    assert UnitCosts.of(SPEC, convention="paper").fixed == 298_973_696
    assert (full.stacks[0].head, full.stacks[0].dim, full.stacks[0].channel) == (12_166_720, 190_105, 151_296)
    assert full.stacks[0].whole == 320_293_632


@pytest.mark.parametrize(("number", "hidden"), [(1, 960), (2, 639), (3, 479), (4, 382)])
def test_plans_of_whole_blocks_in_the_papers_convention(number, hidden):
    target = block_target(BudgetConfig(drop_blocks=number, convention="paper"), SPEC, [1])
    candidates = range(1, 13)
    parts = BlockCosts.of(SPEC, target, candidates)
    assert (parts.attn, parts.unit, parts.block) == (116_497_920, 151_296, 291_093_504)
    assert plan_blocks(SPEC, target, candidates) == BlockPlan(number + 1, hidden)


@pytest.mark.parametrize(("share", "plan"), [(90, (2, 536)), (85, (3, 536)), (80, (3, 9))])
def test_plans_of_shares(share, plan):
    target = target_of(BudgetConfig(macs=f"{share}%"), SPEC, "dcvit")
    found = plan_blocks(SPEC, target, range(1, 13))
    assert (found.blocks, found.hidden) == plan
    assert costs.macs(found.apply(SPEC, range(SPEC.depth))) <= share * costs.macs(SPEC) // 100
