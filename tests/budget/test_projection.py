"""The projection onto a budget: never over, as close as the pieces allow, better than any single exchange."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_vitc import costs
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.projection import multiple_of, project
from lightning_vitc.budget.prunable import pruned_spec
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import MinKeepConfig

SPEC = vit("small", (32, 32), (4, 4), 3, 10, 48, (vit_block(attention(16, (16,) * 3), 96),) * 4, 0.25)
DEIT_S = vit("deit", (224, 224), (16, 16), 3, 1000, 384, (vit_block(attention(64, (64,) * 6), 1536),) * 12, 0.125)


def importances(spec: ArchSpec, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    full = Masks.full(spec)
    return torch.rand(full.dims.shape, generator=generator), torch.rand(full.channels.shape, generator=generator)


def random_masks(spec: ArchSpec, seed: int) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    full = Masks.full(spec)
    masks = Masks(*(torch.rand(mask.shape, generator=generator) < 0.6 for mask in vars(full).values()))
    masks.dims &= (torch.rand(masks.heads.shape, generator=generator) < 0.7)[..., None]
    return masks


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("quantity", "convention"), [("macs", "full"), ("macs", "paper"), ("params", "full")], ids=lambda value: value
)
def test_unit_costs_add_up_to_the_cost_model(seed: int, quantity: str, convention: str) -> None:
    masks = random_masks(SPEC, seed)
    masks.branches[:, 0] &= masks.heads.any(-1)  # attention without heads is no attention
    unit, left = UnitCosts.of(SPEC, quantity, convention, "uvc"), pruned_spec(SPEC, masks)
    expected = costs.params(left) if quantity == "params" else costs.macs(left, convention, "uvc")
    assert unit.total(masks) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 1.0), st.sampled_from([1, 2, 4, 8]))
def test_never_over_and_close(seed: int, share: float, round_to: int) -> None:
    unit = UnitCosts.of(SPEC)
    (part,) = unit.stacks
    least = unit.total(project(Masks.full(SPEC), *importances(SPEC, seed), unit, 0, MinKeepConfig(), round_to))
    limit = max(int(share * unit.dense), least)
    masks = project(Masks.full(SPEC), *importances(SPEC, seed), unit, limit, MinKeepConfig(), round_to)
    cost = unit.total(masks)
    assert cost <= limit
    assert limit - cost <= round_to * max(part.dim, part.channel) or share == 1.0


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5, 0.7, 0.9])
def test_within_half_a_percent_on_deit_s(share: float) -> None:
    unit = UnitCosts.of(DEIT_S)
    limit = int(share * unit.dense)
    masks = project(Masks.full(DEIT_S), *importances(DEIT_S, 0), unit, limit, MinKeepConfig(), 8)
    assert 0 <= limit - costs.macs(pruned_spec(DEIT_S, masks)) <= 0.005 * unit.dense


def test_minima_are_kept_where_the_budget_cannot_be_met() -> None:
    unit, least = UnitCosts.of(SPEC), MinKeepConfig(heads=2, dims=4, channels=8)
    masks = project(Masks.full(SPEC), *importances(SPEC, 1), unit, 0, least)
    assert masks.heads.sum(-1).tolist() == [2] * 4
    assert set(masks.dims.sum(-1)[masks.heads].tolist()) == {4}
    assert masks.channels.sum(-1).tolist() == [8] * 4


def test_multiples_of_round_to() -> None:
    unit = UnitCosts.of(SPEC)
    masks = project(Masks.full(SPEC), *importances(SPEC, 2), unit, unit.dense // 2, MinKeepConfig(), 8)
    assert all(count % 8 == 0 for count in masks.channels.sum(-1).tolist())
    assert all(count % 8 == 0 for count in masks.dims.sum(-1).flatten().tolist())


@pytest.mark.parametrize(
    ("round_to", "head_dim", "size"),
    [(None, 64, 8), (None, 80, 8), (None, 16, 8), (None, 12, 4), (None, 6, 2), (None, 7, 1), (1, 64, 1), (16, 12, 16)],
)
def test_the_default_multiple(round_to: int | None, head_dim: int, size: int) -> None:
    assert multiple_of(round_to, head_dim) == size


@pytest.mark.parametrize("share", [0.3, 0.5, 0.77])
def test_by_default_one_width_is_odd_and_the_budget_is_met_to_the_last_channel(share: float) -> None:
    unit = UnitCosts.of(DEIT_S)
    (part,) = unit.stacks
    limit = int(share * unit.dense)
    masks = project(Masks.full(DEIT_S), *importances(DEIT_S, 5), unit, limit, MinKeepConfig(), None)
    assert int((masks.channels.sum(-1) % 8).bool().sum()) <= 1
    assert not (masks.dims.sum(-1) % 8).any()
    assert 0 <= limit - unit.total(masks) < part.channel


def test_multiples_that_are_asked_for_have_no_exception() -> None:
    unit = UnitCosts.of(DEIT_S)
    masks = project(Masks.full(DEIT_S), *importances(DEIT_S, 5), unit, unit.dense // 2, MinKeepConfig(), 8)
    assert not (masks.channels.sum(-1) % 8).any()


def test_the_least_important_pieces_go_first() -> None:
    unit = UnitCosts.of(SPEC)
    (part,) = unit.stacks
    dims, channels = importances(SPEC, 3)
    channels[0] *= 1e-6
    masks = project(Masks.full(SPEC), dims, channels, unit, unit.dense - 20 * part.channel, MinKeepConfig())
    assert masks.channels[0].sum() == 96 - 20
    assert bool(masks.channels[1:].all())
    assert bool(masks.dims.all())
    assert channels[0][~masks.channels[0]].max() < channels[0][masks.channels[0]].min()


def test_a_head_of_no_use_goes_whole() -> None:
    unit = UnitCosts.of(SPEC)
    (part,) = unit.stacks
    dims, channels = importances(SPEC, 4)
    dims[2, 1] = 1e-9
    masks = project(Masks.full(SPEC), dims, channels, unit, unit.dense - part.head - 16 * part.dim, MinKeepConfig())
    assert not bool(masks.heads[2, 1])
    assert unit.total(masks) == unit.dense - part.head - 16 * part.dim


def test_branches_that_do_not_run_are_left_alone() -> None:
    unit, masks = UnitCosts.of(SPEC), Masks.full(SPEC)
    masks.branches[1] = False
    result = project(masks, *importances(SPEC, 5), unit, unit.dense // 2, MinKeepConfig())
    assert bool(result.dims[1].all())
    assert bool(result.channels[1].all())
    assert unit.total(result) <= unit.dense // 2


# By hand: one block of two heads with two dimensions each, and four channels

BLOCK = vit("block", (8, 8), (4, 4), 1, 10, 4, [vit_block(attention(2, (2, 2)), 4)], 1.0)
OF_BLOCK = StackCosts(stacks_of(BLOCK)[0], attn=0, mlp=0, head=4, dim=5, channel=2)
PIECES = UnitCosts(fixed=0, stacks=(OF_BLOCK,), dense=2 * (4 + 2 * 5) + 4 * 2)


def by_hand(dims: list[list[float]], channels: list[float], save: int, heads: int = 1) -> tuple[list, list]:
    """Which dimensions and channels are left of the block once so much is saved."""
    masks = project(
        Masks.full(BLOCK), torch.tensor([dims]).float(), torch.tensor([channels]).float(), PIECES, PIECES.dense - save,
        MinKeepConfig(heads=heads),
    )  # fmt: skip
    assert PIECES.total(masks) <= PIECES.dense - save
    return masks.dims[0].int().tolist(), masks.channels[0].int().tolist()


def test_the_better_bargain_goes_first() -> None:
    """5.5 for a dimension that costs 5 is less than 3 for a channel that costs 2."""
    assert by_hand([[5.5, 99], [99, 99]], [3.0] * 4, save=5, heads=2) == ([[0, 1], [1, 1]], [1] * 4)


def test_what_was_taken_too_much_is_given_back_the_dearest_first() -> None:
    """Both channels save 4 of 7, then the dimension 2 too much: the channel of importance 2 comes back."""
    kept = by_hand([[30, 999], [999, 999]], [1.0, 2.0, 500, 500], save=7, heads=2)
    assert kept == ([[0, 1], [1, 1]], [0, 1, 1, 1])


def test_nothing_comes_back_from_behind_what_stays_away() -> None:
    """The head's first dimension (5) would fit into what is too much, but not its queries and keys with it."""
    assert by_hand([[1, 100], [1000, 1000]], [40.0] * 4, save=9) == ([[0, 0], [1, 1]], [1] * 4)


def test_what_is_too_large_waits_for_what_comes_closer() -> None:
    """A head of no use costs 14; 2 are to be saved, which a channel does."""
    assert by_hand([[0.01, 0.01], [99, 99]], [9.0, 99, 99, 99], save=2) == ([[1, 1], [1, 1]], [0, 1, 1, 1])
