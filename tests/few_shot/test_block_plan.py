"""The planner: the published numbers to the last digit, and what holds for any network and any budget."""

import re
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_vitc import costs
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.target import Target
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.block_plan import (
    BlockCosts,
    BlockPlan,
    block_target,
    first_reached,
    plan_blocks,
    plan_of_blocks,
)
from lightning_vitc.few_shot.feature_matching import must_have_tokens
from lightning_vitc.few_shot.units import chosen_candidates
from lightning_vitc.networks.backbone import template
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import positions, vit, vit_block
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig, ModelConfig

PUBLISHED = {
    ("vit_small_patch16_224", 1): (2, 1152), ("vit_small_patch16_224", 2): (3, 767),
    ("vit_small_patch16_224", 3): (4, 575), ("vit_base_patch16_224", 1): (2, 2304),
    ("vit_base_patch16_224", 2): (3, 1535), ("vit_base_patch16_224", 3): (4, 1151),
    ("deit_base_patch16_224", 3): (4, 1151),
}  # fmt: skip
PARAMS = {1: 79_479_016, 2: 72_388_837, 3: 65_301_732}
RATIOS = {1: 0.917244729, 2: 0.834489457, 3: 0.751734186}


def spec_of(name: str) -> ArchSpec:
    return template(ModelConfig(name=name)).spec


def target_of_blocks(spec: ArchSpec, number: int, convention: str = "paper") -> Target:
    return block_target(BudgetConfig(drop_blocks=number, convention=convention), spec, [1])


@pytest.mark.parametrize(("model", "block", "total"), [
    ("vit_small_patch16_224", 349_191_168, 4_248_783_360), ("vit_base_patch16_224", 1_395_554_304, 16_863_630_336),
    ("deit_base_patch16_224", 1_395_554_304, 16_863_630_336),
])  # fmt: skip
def test_published_counts(model, block, total):
    spec = spec_of(model)
    assert costs.macs(spec, "paper", "dcvit") == total
    assert BlockCosts.of(spec, target_of_blocks(spec, 1), [1]).block == block


@pytest.mark.parametrize(("model", "number"), PUBLISHED)
def test_published_plans(model, number):
    spec = spec_of(model)
    target = target_of_blocks(spec, number)
    plan = plan_blocks(spec, target, range(1, 11))
    assert (plan.blocks, plan.hidden) == PUBLISHED[model, number]
    width = spec.embed_dim
    assert plan.hidden == floor(Fraction(6 * width - 2 * (number - 1), number + 1))
    if "base" in model:
        assert round(target.ratio, 9) == RATIOS[number]
        assert costs.params(plan.apply(spec, range(spec.depth))) == PARAMS[number]
        assert costs.params(spec) == 86_567_656


def test_the_other_convention_drops_whole_blocks():
    spec = spec_of("vit_base_patch16_224")
    assert plan_blocks(spec, target_of_blocks(spec, 3, "full"), range(1, 11)) == BlockPlan(3, 0)


@pytest.mark.parametrize(("share", "wrong"), [
    ("99.99%", "cannot be reached"), ("98%", "cannot be reached"), ("97.25%", "cannot be reached"),
    ("100%", "is the dense network, of which nothing is to be compressed"),
])  # fmt: skip
def test_a_ratio_above_all_that_can_be_reached(share, wrong):
    """The dense network is no result of the method, and is not offered as one."""
    spec = spec_of("vit_base_patch16_224")
    target = block_target(BudgetConfig(macs=share, convention="paper"), spec, [1])
    with pytest.raises(UserError) as caught:
        plan_blocks(spec, target, range(1, 11))
    assert str(caught.value).endswith(f"%) {wrong}; the nearest that can is 16,398,243,840 (97.24 %)")
    reachable = block_target(BudgetConfig(macs=16_398_243_840, convention="paper"), spec, [1])
    assert plan_blocks(spec, reachable, range(1, 11)) == BlockPlan(1, 3072)


def test_a_number_between_two_that_can_be_reached_with_extra_blocks():
    """Of 2 + 1 blocks without their attention, and 1 + 1 that are as small as one without attention and MLP."""
    spec = spec_of("vit_base_patch16_224")
    target = block_target(BudgetConfig(macs=15_468_000_000, convention="paper"), spec, [1])
    with pytest.raises(UserError) as caught:
        plan_blocks(spec, target, range(1, 11), extra=1)
    assert str(caught.value).endswith(
        "cannot be reached; the nearest that can are 15,467,470,848 (91.72 %) and 15,468,681,216 (91.73 %)"
    )


def test_more_blocks_than_candidates():
    spec = spec_of("vit_base_patch16_224")
    with pytest.raises(UserError, match=r"needs 4 blocks, and 3 are candidates \(method.candidates\); the least"):
        plan_blocks(spec, target_of_blocks(spec, 3), range(3))


@pytest.mark.parametrize(("keys", "message"), [
    ({}, "budget.macs: not set"),
    ({"macs": "80%", "drop_blocks": 2}, "budget.drop_blocks: set beside budget.macs"),
    ({"drop_blocks": 12}, "budget.drop_blocks: 12 of 12 blocks leaves none; at most 11"),
    ({"macs": "101%"}, "budget.macs: 101% is more than the dense model's"),
])  # fmt: skip
def test_budgets_that_mean_nothing(keys, message):
    with pytest.raises(UserError, match=message):
        block_target(BudgetConfig(**keys), spec_of("vit_base_patch16_224"), [1])


def test_beyond_forty_percent_it_warns():
    spec = spec_of("vit_small_patch16_224")
    with pytest.warns(UserWarning, match=r"removes 41 % of the network; compressed with few images it collapses"):
        plan_of_blocks(spec, target_of_blocks(spec, 5), range(1, 11))


def test_one_more_block_costs_the_same():
    spec = spec_of("vit_base_patch16_224")
    target = target_of_blocks(spec, 2)
    plan = plan_blocks(spec, target, range(1, 11), extra=1)
    assert plan.blocks == 4
    left = target.amount - target.measure(plan.apply(spec, range(spec.depth)))
    assert 0 <= left < 4 * BlockCosts.of(spec, target, [1]).unit


def test_reach_of_a_plan_by_hand():
    """From ten whole blocks without attention and MLP to one without its attention, in units of ten blocks."""
    spec = spec_of("vit_base_patch16_224")
    reachable = plan_of_blocks(spec, target_of_blocks(spec, 2), range(1, 11)).reachable
    assert reachable.most == 16_398_243_840
    assert reachable.step == 10 * 2 * 197 * 768


SWIN_B = swin("swin_base", 128, (2, 2, 18, 2), (4, 8, 16, 32))


@pytest.mark.parametrize(("number", "plan", "params", "macs"), [
    (2, BlockPlan(3, 1023), 81_453_293, 14_167_715_840),
    (4, BlockPlan(5, 613), 75_142_089, 12_914_118_656),
    (6, BlockPlan(7, 437), 68_828_835, 11_660_120_064),
])  # fmt: skip
def test_the_deepest_stage_of_a_swin_transformer(number, plan, params, macs):
    """As dropping so many of its blocks by the paper's count; and in full MACs, where an attention is a unit of all."""
    candidates = chosen_candidates(None, SWIN_B)
    assert candidates == list(range(5, 21))
    target = block_target(BudgetConfig(drop_blocks=number, convention="paper"), SWIN_B, candidates)
    assert plan_blocks(SWIN_B, target, candidates) == plan
    small = plan.apply(SWIN_B, candidates)
    assert (costs.params(small), costs.macs(small)) == (params, macs)
    full = block_target(BudgetConfig(drop_blocks=number), SWIN_B, candidates)
    assert plan_blocks(SWIN_B, full, candidates) == BlockPlan(number, 0)


def test_a_network_without_a_class_token_has_none_to_compare():
    must_have_tokens(spec_of("vit_base_patch16_224"), "class")
    with pytest.raises(
        UserError, match=r"^method\.matched: class asks for a class token, and swin_base has none; leave"
    ):
        must_have_tokens(SWIN_B, "class")


def test_candidates_of_several_stages_differ_in_cost():
    with pytest.raises(UserError, match=r"^method\.candidates: blocks of several stages \(2 to 3, 4 to 21\) differ in"):
        block_target(BudgetConfig(drop_blocks=1), SWIN_B, [2, 5])


SMALL = vit("small", (8, 8), (4, 4), 1, 10, 4, [vit_block(attention(2, (2, 2)), 4)] * 4, 1.0)
MEASURED = UnitCosts(0, (StackCosts(stacks_of(SMALL)[0], attn=1, mlp=2, head=3, dim=4, channel=5),), dense=180)


def measured_target(amount: int):
    return SimpleNamespace(table="any", dense=180, amount=amount, unit_costs=lambda _: MEASURED)


def test_costs_of_a_measured_block_by_hand():
    """Two heads of two dimensions, four hidden units: 1 + 2 x 3 + 4 x 4 without the MLP, and 2 + 4 x 5 with it."""
    assert BlockCosts.of(SMALL, measured_target(100), [1]) == BlockCosts(attn=23, unit=5, hidden=4, block=45)


def test_a_latency_between_two_that_can_be_reached_leads_to_attentions_alone():
    """Five are to be removed, less than an attention; fifty are two attentions and four units of the two MLPs."""
    assert plan_blocks(SMALL, measured_target(175), range(4)) == BlockPlan(1, 4)
    assert plan_blocks(SMALL, measured_target(130), range(4)) == BlockPlan(2, 3)


@st.composite
def networks(draw: st.DrawFn) -> ArchSpec:
    heads, head_dim = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    block = vit_block(attention(head_dim, (head_dim,) * heads), draw(st.integers(1, 900)))
    side = draw(st.integers(1, 6))
    return vit(
        name="any", img_size=(4 * side, 4 * side), patch_size=(4, 4), in_chans=3, num_classes=7,
        embed_dim=heads * head_dim, blocks=(block,) * draw(st.integers(3, 14)), scale=1.0,
    )  # fmt: skip


@given(networks(), st.integers(1, 9999), st.sampled_from(["full", "paper"]))
def test_any_network_and_any_budget(spec, share, convention):
    """Never over the target, missed by less than a unit of every block, and the paper's formulas in fractions."""
    target = block_target(BudgetConfig(macs=f"{share / 100}%", convention=convention), spec, [1])
    parts, candidates = BlockCosts.of(spec, target, [1]), range(spec.depth - 2)
    removed = target.dense - target.amount
    A, P = parts.attn, parts.hidden * parts.unit
    k = ceil(Fraction(removed, A + P))
    assume(removed > 0)
    if k > len(candidates) or k * A > removed:
        with pytest.raises(UserError):
            plan_blocks(spec, target, candidates)
        return
    plan = plan_blocks(spec, target, candidates)
    d = Fraction(removed - k * A, k * P)
    assert (plan.blocks, plan.hidden) == (k, floor(parts.hidden * (1 - d)))
    cost = target.measure(plan.apply(spec, range(spec.depth)))
    assert 0 <= target.amount - cost < k * parts.unit
    if convention == "paper":
        assert parts.unit == 2 * positions(spec)[0] * spec.embed_dim
    assert cost == target.measure(plan.apply(spec, range(1, 1 + k)))  # whichever blocks they are


@given(networks(), st.integers(1, 9999), st.sampled_from(["full", "paper"]), st.integers(0, 4))
def test_what_a_refusal_offers_can_be_reached(spec, share, convention, extra):
    target = block_target(BudgetConfig(macs=f"{share / 100}%", convention=convention), spec, [1])
    try:
        plan_blocks(spec, target, range(spec.depth - 2), extra)
    except UserError as refusal:
        _, found, nearest = str(refusal).partition("; the nearest that can ")
        offered = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) \(", nearest)]
        assert not found or 1 <= len(offered) <= 2
        for amount in offered:
            plan = plan_blocks(spec, replace(target, amount=amount), range(spec.depth - 2), extra)
            assert target.measure(plan.apply(spec, range(spec.depth))) <= amount < target.dense
        if len(offered) == 2:
            assert offered[0] < target.amount < offered[1]


@given(networks(), st.integers(0, 4))
def test_the_most_of_the_plan_can_be_reached_and_no_more(spec, extra):
    target = block_target(BudgetConfig(macs="100%"), spec, [1])
    parts = BlockCosts.of(spec, target, [1])
    removed = (first_reached(parts, extra) + extra) * parts.attn
    assume(removed < target.dense)
    plan_blocks(spec, replace(target, amount=target.dense - removed), [1] * 100 * spec.depth, extra)
    with pytest.raises(UserError):
        plan_blocks(spec, replace(target, amount=target.dense - removed + 1), [1] * 100 * spec.depth, extra)
