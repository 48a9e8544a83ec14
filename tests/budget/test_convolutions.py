"""Networks of convolutions under a budget: inner channels are pruned, blocks that keep their shape are skipped."""

from functools import partial
from typing import Any

import pytest
import torch

from lightning_vitc.budget.gates import SkipGates
from lightning_vitc.budget.masks import Masks, as_indices, check_minima, from_indices
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.prunable import energies, kept_of, masked, outlets, pruned_spec
from lightning_vitc.budget.reachable import reachable_of
from lightning_vitc.budget.search import BudgetedSearch, SearchRates
from lightning_vitc.budget.sketch import sketch_of
from lightning_vitc.budget.stacks import necessary, present
from lightning_vitc.budget.target import target_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.latency.table import points_of
from lightning_vitc.networks import costs
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.mobilenet.shape import mobilenet
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.schema import BudgetConfig, MinKeepConfig
from tests.networks.conv_nets import SPECS, images, network

FAMILIES = tuple(SPECS)


def test_what_a_channel_costs() -> None:
    """The numbers of a hidden channel at 224 pixels, block by block."""
    of_resnet, of_mobilenet = UnitCosts.of(resnet("resnet34", (3, 4, 6, 3))), UnitCosts.of(mobilenet())
    assert [of_resnet.of_block(number).channel for number in range(16)] == [
        *[3_612_672] * 3, 1_354_752, *[1_806_336] * 3, 677_376, *[903_168] * 5, 338_688, *[451_584] * 2,
    ]  # fmt: skip
    assert [of_mobilenet.of_block(number).channel for number in range(1, 17)] == [
        304_192, 178_752, 107_408, 57_232, 57_232, 39_396, *[26_852] * 3, 33_124, *[39_396] * 2, 27_097, *[16_121] * 2,
        23_961,
    ]  # fmt: skip
    assert of_resnet.of_block(1).whole == 231_211_008
    assert of_mobilenet.of_block(0).channel == 0  # its channels are those of the stem


def test_what_may_be_skipped() -> None:
    assert (~necessary(resnet("resnet34", (3, 4, 6, 3)))).nonzero().flatten().tolist() == [
        0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15,
    ]  # fmt: skip
    assert (~necessary(mobilenet())).nonzero().flatten().tolist() == [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]


def random_masks(family: str, seed: int) -> Masks:
    spec, generator = SPECS[family], torch.Generator().manual_seed(seed)
    masks = Masks.full(spec)
    masks.channels &= torch.rand(masks.channels.shape, generator=generator) < 0.6
    run = (torch.rand(spec.depth, generator=generator) < 0.5) | necessary(spec)
    masks.branches &= run[:, None]
    return masks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_masked_is_compacted_and_costs_what_the_unit_costs_say(family: str, seed: int) -> None:
    model, masks = network(family), random_masks(family, seed)
    small = compact(model, kept_of(model.spec, masks))
    torch.testing.assert_close(masked(model, masks)(images()), small(images()), rtol=0, atol=1e-5)
    assert not torch.allclose(small(images()), model(images()), atol=1e-3)
    left = pruned_spec(model.spec, masks)
    assert small.spec == left
    for quantity, count in (("macs", costs.macs), ("params", costs.params)):
        assert UnitCosts.of(model.spec, quantity).total(masks) == count(left)
    again = from_indices(model.spec, as_indices(masks))
    assert all(torch.equal(getattr(again, name), getattr(masks, name)) for name in ("dims", "channels", "branches"))


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("spec", [resnet("resnet34", (3, 4, 6, 3)), mobilenet()], ids=["resnet", "mobilenet"])
def test_the_budget_is_met_from_below(spec: Any, share: float) -> None:
    unit, full = UnitCosts.of(spec), Masks.full(spec)
    channels = torch.rand(full.channels.shape, generator=torch.Generator().manual_seed(0))
    masks = project(full, full.dims.float(), channels, unit, limit := int(share * unit.dense), MinKeepConfig(), None)
    total = costs.macs(pruned_spec(spec, masks))
    assert limit - max(part.channel for part in unit.stacks) < total <= limit
    budget = BudgetConfig(macs=f"{100 * share:g}%")
    sketch = sketch_of(spec, unit, limit, budget, blocks=1).spec
    assert costs.macs(sketch) <= limit
    target = target_of(budget, spec, "uvc")
    found = reachable_of(spec, unit, budget, target, prune=True, skip=True, share=None)
    assert found.least < limit < found.most == costs.macs(spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_moves_channels_towards_the_budget(family: str) -> None:
    model = network(family)
    unit = UnitCosts.of(model.spec)
    search, run = BudgetedSearch(model.spec, unit, MinKeepConfig(), SearchRates()), present(model.spec).float()
    before = [weight.clone() for _, of_block in outlets(model) for weight in of_block]
    for _ in range(20):
        search.measure(run, 0.5)
        search.prune(model, run, 0.1)
        search.reprice()
    assert search.ratio(run) < 0.95
    assert all(value.isfinite() for value in search.observe(run, 0.5).values())
    after = [weight for _, of_block in outlets(model) for weight in of_block]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    masks = search.masks(*energies(model), present(model.spec))
    assert masks.channels.sum() < Masks.full(model.spec).channels.sum()
    importance = search.importance(*energies(model))
    masks = project(Masks.full(model.spec), *importance, unit, limit := 4 * unit.dense // 5, MinKeepConfig(), 1)
    assert unit.total(masks) <= limit


@pytest.mark.parametrize("unit", ["block", "sublayer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_that_change_the_stream_always_run(family: str, unit: Any) -> None:
    spec = SPECS[family]
    gates = SkipGates(spec.depth, unit, initial=(3.0, -3.0), there=present(spec), necessary=necessary(spec))
    assert gates.probability()[necessary(spec)].eq(1).all()
    full, cost = Masks.full(spec), UnitCosts.of(spec)
    total = partial(lambda branches: cost.total(full.running(branches)))
    running = gates.decide(total, lambda _: 0, 0, 1)
    assert torch.equal(running[:, 1], necessary(spec))
    assert not running[:, 0].any()
    everything = gates.decide(total, lambda _: 0, cost.dense, 1)
    assert torch.equal(everything, present(spec))


def test_what_makes_no_sense_is_refused_in_one_line() -> None:
    check_minima(MinKeepConfig(channels=8), SPECS["resnet"])
    with pytest.raises(UserError, match=r"^budget\.min_keep\.heads: resnet18 has none; leave it out$"):
        check_minima(MinKeepConfig(heads=2), SPECS["resnet"])
    with pytest.raises(UserError, match=r"^budget\.min_keep\.channels: 9 is more than the 8 that a stage of resnet18"):
        check_minima(MinKeepConfig(channels=9), SPECS["resnet"])
    with pytest.raises(UserError, match=r"^budget\.latency_ms: blocks of convolutions, as resnet18 has"):
        points_of(SPECS["resnet"])
