"""Networks whose stages differ: searched, projected and priced stage by stage."""

import pytest
import torch

from lightning_vitc.budget.masks import Masks, check_minima
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.prunable import energies, kept_of, pruned_spec
from lightning_vitc.budget.search import BudgetedSearch, SearchRates
from lightning_vitc.budget.stacks import joined, stacks_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.latency.table import LatencyTable, points_of
from lightning_vitc.methods.one_shot import cut, uniform_size
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig, MinKeepConfig

SPEC = swin("swin_tiny", 96, (2, 2, 6, 2), (3, 6, 12, 24))
SMALL = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4), "num_classes": 5}


def test_what_a_piece_costs_in_each_stage() -> None:
    """The numbers of a head, a value dimension and a channel of Swin-T at 224 pixels."""
    found = [(part.head, part.dim, part.channel) for part in UnitCosts.of(SPEC).stacks]
    assert found == [
        (24_184_832, 755_776, 602_112), (10_863_104, 339_472, 301_056), (5_124_224, 160_132, 150_528),
        (2_485_280, 77_665, 75_264),
    ]  # fmt: skip


def test_smaller_stages_are_filled_up_and_nothing_of_that_is_kept() -> None:
    masks = Masks.full(SPEC)
    assert masks.dims.shape == (12, 24, 32)
    assert masks.heads.sum(-1).tolist() == [3] * 2 + [6] * 2 + [12] * 6 + [24] * 2
    assert masks.channels.sum(-1).tolist() == [384] * 2 + [768] * 2 + [1536] * 6 + [3072] * 2
    first, second = torch.ones(1, 2, 3), torch.full((2, 4, 1), 2.0)
    assert joined([first, second]).tolist() == [
        [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], *[[[2, 0, 0]] * 4] * 2,
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_budget_is_met_from_below(share: float) -> None:
    unit, full = UnitCosts.of(SPEC), Masks.full(SPEC)
    generator = torch.Generator().manual_seed(0)
    dims, channels = (torch.rand(mask.shape, generator=generator) for mask in (full.dims, full.channels))
    masks = project(full, dims, channels, unit, limit := int(share * unit.dense), MinKeepConfig(), None)
    assert not (masks.dims & ~full.dims).any()
    assert not (masks.channels & ~full.channels).any()
    assert limit - 602_112 < costs.macs(pruned_spec(SPEC, masks)) == unit.total(masks) <= limit


def test_a_search_comes_to_its_target_in_every_stage() -> None:
    network = create_backbone("swin_tiny_patch4_window7_224", **SMALL)
    unit = UnitCosts.of(network.spec)
    search, run = BudgetedSearch(network.spec, unit, MinKeepConfig(), SearchRates(cut=0.02)), torch.ones(3, 2)
    for _ in range(300):
        search.measure(run, 0.6)
        search.move(*energies(network), run)
        search.reprice()
    assert float(search.ratio(run)) == pytest.approx(0.6, abs=0.03)
    masks = search.masks(*energies(network), run.bool())
    left = pruned_spec(network.spec, masks)
    assert 0.5 < costs.macs(left) / unit.dense < float(search.ratio(run))  # cuts are rounded up
    assert all(branch.width < whole.width for (_, _, branch), (_, _, whole) in
               zip(left.branches(), network.spec.branches(), strict=True))  # fmt: skip
    assert kept_of(network.spec, masks).spec == left
    assert not search.cut_dims[0, 2:].any(), "places that mean nothing"


def test_shares_of_a_stage_are_those_of_all() -> None:
    network = create_backbone("swin_tiny_patch4_window7_224", **SMALL)
    unit = UnitCosts.of(network.spec)
    heads, channels = uniform_size(unit, unit.dense * 6 // 10, BudgetConfig())
    left = pruned_spec(network.spec, cut(network, "magnitude", heads, channels, seed=0))
    sizes = [(attn.groups, mlp.width) for attn, mlp in left.blocks if attn and mlp]
    assert sizes == [(heads, channels)] + [(2 * heads, 2 * channels)] * 2
    assert costs.macs(left) <= unit.dense * 6 // 10


def test_minima_are_those_of_the_smallest_stage() -> None:
    with pytest.raises(UserError, match=r"^budget\.min_keep\.heads: 4 is more than the 3 that a stage of"):
        check_minima(MinKeepConfig(heads=4), SPEC)


def test_latencies_are_measured_stage_by_stage() -> None:
    """In a world where a branch takes its MACs, whatever network is cut from the dense one is predicted by them."""

    def taken(spec: ArchSpec) -> int:
        return 1_000_000 + costs.macs(spec)

    measured = {name: taken(spec) for name, spec in points_of(SPEC).items()}
    table = LatencyTable.of(SPEC, measured | {"dense": taken(SPEC)})
    stacks = stacks_of(SPEC)
    blocks = list(SPEC.blocks)
    attn, mlp = blocks[1].branches
    assert attn is not None
    assert mlp is not None
    blocks[1] = blocks[1].with_branch(0, None).with_branch(1, mlp.of_pieces(192))
    blocks[9] = None  # type: ignore[call-overload]
    spec = SPEC.with_blocks(blocks)
    assert table.measure(spec) == pytest.approx(taken(spec), rel=0.001)
    assert [part.stack for part in table.unit_costs.stacks] == list(stacks)
    assert table.unit_costs.total(Masks.full(SPEC)) == table.dense
