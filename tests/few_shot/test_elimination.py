"""How many whole blocks leave, and which: exactly, in any order, whatever each of them costs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_vitc.errors import UserError
from lightning_vitc.few_shot import elimination
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.units import chosen_candidates
from lightning_vitc.networks import costs
from lightning_vitc.networks.families.mobilenet.shape import mobilenet
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.schema import BudgetConfig

SWIN_B = swin("swin_base", 128, (2, 2, 18, 2), (4, 8, 16, 32))
RESNET, MOBILENET = resnet("resnet34", (3, 4, 6, 3)), mobilenet()
BLOCK = 231_211_008  # MACs of every block of ResNet-34 that keeps its shape


def of(spec, unit="block", partial=False, **budget) -> Elimination:
    return Elimination.of(BudgetConfig(**budget), spec, chosen_candidates(None, spec, unit), unit, partial=partial)


@pytest.mark.parametrize(
    ("spec", "unit", "order", "params", "macs"),
    [
        (SWIN_B, "pair", [8, 12], 75_147_872, 12_925_358_080),  # blocks 4, 5, 8, 9 of the third stage
        (RESNET, "block", [1, 2], 21_649_704, 3_201_339_392),  # layer1.1, layer1.2
        (RESNET, "block", [1, 2, 4], 21_354_280, 2_970_128_384),  # and layer2.1
        (MOBILENET, "block", [8], 3_450_600, 290_463_104),  # torchvision's features.9
        (MOBILENET, "block", [8, 15], 3_130_600, 274_986_944),
        (MOBILENET, "block", [2, 4, 7, 11, 14], 2_988_648, 215_566_016),
    ],
)
def test_published_networks(spec, unit, order, params, macs):
    """By their number of blocks, and by the MACs that are left, to the last one."""
    size = 2 if unit == "pair" else 1
    for budget in ({"drop_blocks": size * len(order)}, {"macs": macs}):
        plan = of(spec, unit, **budget)
        others = [one for one in plan.saved if one not in order]
        assert plan.chosen([*order, *others]) == order
        small = plan.apply([*order, *others])
        assert (costs.params(small), costs.macs(small)) == (params, macs)


def test_the_papers_count_of_two_pairs():
    plan = of(SWIN_B, "pair", drop_blocks=4, convention="paper")
    assert plan.target.amount == plan.target.measure(plan.apply([*plan.saved])) == 12_686_118_912
    assert round(plan.target.ratio, 6) == 0.837059
    assert plan.plan().details == {"blocks": 4, "macs": 12_686_118_912, "params": 75_147_872}


def test_a_pair_leaves_the_shifts_of_the_others():
    left = of(SWIN_B, "pair", drop_blocks=4).apply([8, 12])
    shifts = [block.branches[0].shift for block in left.stages[2].blocks]
    assert shifts == [0, 3] * 7


def test_what_candidates_save():
    """Of ResNet-34 all the same MACs, and parameters by the stage."""
    assert set(of(RESNET, macs="90%").saved.values()) == {BLOCK}
    saved = of(RESNET, params="90%").saved
    assert (saved[1], saved[4], saved[8], saved[14]) == (73_984, 295_424, 1_180_672, 4_720_640)
    saved = of(MOBILENET, macs="90%").saved
    assert (saved[2], saved[4], saved[7], saved[11], saved[14]) == (
        25_740_288, 10_988_544, 10_311_168, 22_692_096, 15_476_160,
    )  # fmt: skip


def test_a_plan_says_what_the_order_does_not_change():
    assert of(RESNET, macs="94%").plan().details == {
        "blocks": 1, "macs": 3_663_761_408 - BLOCK, "least_params": 21_797_672 - 4_720_640,
        "most_params": 21_797_672 - 73_984,
    }  # fmt: skip
    details = (
        of(MOBILENET, macs="91%").plan().details
    )  # 27,069,685 are to leave: two of the largest, three of the least
    assert details == {"least_blocks": 2, "most_blocks": 3}


def test_reach():
    reachable = of(MOBILENET, macs="91%").plan().reachable
    removed = 25_740_288 + 2 * 10_988_544 + 3 * 10_311_168 + 2 * 22_692_096 + 2 * 15_476_160
    assert reachable.least == 300_774_272 - removed
    assert reachable.most == 300_774_272 - 10_311_168
    assert reachable.step == 25_740_288


@given(st.permutations(chosen_candidates(None, MOBILENET, "block")), st.integers(45, 99))
def test_any_order_and_any_budget(order, share):
    """The first ones that reach the target, and not one more."""
    plan = of(MOBILENET, macs=f"{share}%")
    least = plan.plan().reachable.least
    if least > plan.target.amount:
        with pytest.raises(UserError, match=f"the least that they reach is {least:,}"):
            plan.chosen(order)
        return
    chosen = plan.chosen(order)
    assert chosen == order[: len(chosen)]
    assert costs.macs(plan.apply(order)) <= plan.target.amount
    one_less = replace(plan, number=len(chosen) - 1)
    assert len(chosen) == 1 or costs.macs(one_less.apply(order)) > plan.target.amount


@given(st.permutations(chosen_candidates(None, MOBILENET, "block")), st.integers(490, 990))
def test_the_last_block_in_part(order, share):
    """The budget is met to less than an inner channel of it, or it has to go as a whole."""
    plan = of(MOBILENET, partial=True, macs=f"{share / 10}%")
    assume(plan.plan().reachable.least <= plan.target.amount)
    chosen = plan.chosen(order)
    left, small = plan.narrowed(order), plan.apply(order)
    piece = plan._piece(chosen[-1])
    missed = plan.target.amount - costs.macs(small)
    assert 0 <= missed < piece
    assert small.depth == MOBILENET.depth - len(chosen) + (left > 0)


def test_a_part_of_a_block_of_resnet():
    """Of 1.5 blocks one leaves, and half of the channels of another: in every stage as many MACs."""
    plan = of(RESNET, partial=True, macs=3_663_761_408 - 3 * BLOCK // 2)
    for order, channels in (([1, 2], 32), ([8, 4], 64), ([4, 14], 256)):
        assert plan.narrowed(order) == channels
    assert plan.plan().details == {"blocks": 2}
    by_params = of(RESNET, partial=True, params=21_797_672 - 2 * 10**5)  # norms behind the last convolution stay
    small = by_params.apply([4])
    assert 0 <= by_params.target.amount - costs.params(small) < 9 * 256 + 2


@pytest.mark.parametrize(
    ("spec", "unit", "budget", "said"),
    [
        (RESNET, "block", {"macs": "100%"},
         "budget.macs: 3,663,761,408 is the dense network; nothing is to be dropped"),
        (RESNET, "block", {"macs": "10%"},
         "budget.macs: 366,376,140 needs 15 blocks dropped, and 12 are candidates (method.candidates); the least that "
         f"they reach is {3_663_761_408 - 12 * BLOCK:,}"),
        (SWIN_B, "pair", {"drop_blocks": 16},
         "budget.macs: 5,408,591,872 needs 8 pairs of blocks dropped, and 7 are candidates (method.candidates); the "
         "least that they reach is 6,661,386,240"),
    ],
)  # fmt: skip
def test_out_of_reach(spec, unit, budget, said):
    plan = of(spec, unit, **budget)
    assert plan.plan().refusal == said
    with pytest.raises(UserError) as caught:
        plan.chosen([*plan.saved])
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("spec", "unit", "partial", "budget", "said"),
    [
        (SWIN_B, "pair", False, {"drop_blocks": 3}, "budget.drop_blocks: 3 blocks are no pairs; give an even number"),
        (SWIN_B, "block", True, {"macs": "90%"},
         "method.partial: is for blocks of convolutions; those with attention have method.unit=attention"),
        (RESNET, "block", False, {}, "budget.macs: not set; give it, such as budget.macs=80%, or budget.drop_blocks=2"),
        (RESNET, "block", False, {"drop_blocks": 16}, "budget.drop_blocks: 16 of 16 blocks leaves none; at most 15"),
    ],
)  # fmt: skip
def test_budgets_that_mean_nothing(spec, unit, partial, budget, said):
    with pytest.raises(UserError) as caught:
        of(spec, unit, partial, **budget)
    assert str(caught.value) == said


def test_a_number_that_is_measured(monkeypatch):
    """Blocks of one stage; of several the number is their order's."""
    plan = of(SWIN_B, "block", macs="90%")
    asked = []
    monkeypatch.setattr(elimination, "fit", lambda amount, decide, measure: SimpleNamespace(
        choice=decide(amount), facts=lambda limit: asked.append(limit) or {"tried": measure(3)}))  # fmt: skip
    fitted, facts = plan.fitted(lambda spec: spec.depth)
    assert (fitted.number, facts, asked) == (3, {"tried": 21}, [plan.target.amount])
    with pytest.raises(UserError, match=r"^budget\.latency_ms: blocks of several stages differ in latency; name those"):
        of(MOBILENET, macs="90%").fitted(lambda spec: spec.depth)


def test_beyond_forty_percent_it_warns():
    with pytest.warns(UserWarning, match=r"^budget\.macs: .* removes 41 % of the network; compressed with few images"):
        of(RESNET, macs="59%").plan()
