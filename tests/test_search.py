"""The primal-dual search: the paper's examples, and what the released code gets wrong."""

import pytest
import torch

from lightning_vitc.architecture import ArchSpec, AttentionSpec, BlockSpec
from lightning_vitc.prunable import UnitCosts
from lightning_vitc.schema import MinKeepConfig
from lightning_vitc.search import BudgetedSearch, SearchRates, lowest, smallest

BLOCK = BlockSpec(AttentionSpec(16, (16,) * 6), 384)
SPEC = ArchSpec("small", (8, 8), (2, 2), 1, 10, 96, (BLOCK,) * 4, 0.25)


def search(**rates: float) -> BudgetedSearch:
    return BudgetedSearch(SPEC, UnitCosts.of(SPEC), MinKeepConfig(), SearchRates(**rates))


def energies(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, 6, 16, generator=generator) + 0.5, torch.rand(4, 384, generator=generator) + 0.5


def test_the_bottom_norm_and_its_subgradient() -> None:
    gone, following = lowest(torch.tensor([4.0, 1, 3, 2]), torch.tensor(1.2))
    assert (float(gone), float(following)) == (3.0, 3.0)
    assert smallest(torch.tensor([4.0, 1, 3, 2]), torch.tensor(1.2)).tolist() == [False, True, False, True]


def test_the_proximal_factor() -> None:
    budget = search()
    budget.cut_channels[0], budget.dual_channels[:] = 2, 1000
    dims, channels = energies()
    weights = [[torch.ones(96, 96) for _ in range(4)], [torch.ones(96, 384) for _ in range(4)]]
    budget.shrink(weights, dims, channels, 1e-4)
    cut = channels[0].argsort()[:2]
    assert weights[1][0][:, cut].unique().item() == pytest.approx(0.8333, abs=1e-4)
    assert int((weights[1][0] != 1).any(0).sum()) == 2
    assert all(bool((weight == 1).all()) for weight in [*weights[0], *weights[1][1:]])


@pytest.mark.parametrize("target", [0.2, 0.3, 0.5, 0.9])
def test_the_budget_moves_everything_from_the_first_step_and_is_met(target: float) -> None:
    budget, (dims, channels), run = search(), energies(), torch.ones(4, 2)
    budget.update(dims, channels, run, target)
    for name in ("heads", "channels", "dims"):
        assert bool((getattr(budget, f"cut_{name}") > 0).all())
    for _ in range(400):
        budget.update(dims, channels, run, target)
    assert float(budget.ratio(run)) == pytest.approx(target, abs=0.02)


def test_the_price_does_not_wind_up() -> None:
    budget, (dims, channels), run = search(price_limit=3.0), energies(), torch.ones(4, 2)
    for _ in range(300):
        budget.update(dims, channels, run, 0.0)  # out of reach
    assert float(budget.price) == 3.0
    for _ in range(300):
        budget.update(dims, channels, run, 1.0)
    assert float(budget.ratio(run)) > 0.9  # variables come back from their bounds


def test_a_head_and_a_channel_move_by_the_same_cost() -> None:
    budget, run = search(dual=0.0), torch.ones(4, 2)
    flat = torch.ones(4, 6, 16), torch.ones(4, 384)
    for name in ("heads", "channels", "dims"):
        getattr(budget, f"dual_{name}").zero_()
    budget.update(*flat, run, 0.5)
    costs = budget.costs
    heads = budget.cut_heads * (costs.head + 16 * costs.dim)
    channels = budget.cut_channels * costs.channel
    dims = (budget.cut_dims * costs.dim).sum(-1)
    assert torch.allclose(heads, channels)
    assert torch.allclose(dims, channels)


def test_the_ratio_is_that_of_the_cost_model() -> None:
    budget, run = search(), torch.ones(4, 2)
    budget.cut_heads[:], budget.cut_channels[:], budget.cut_dims[:] = 2, 100, 4
    masks = budget.masks(*energies(), run.bool())
    assert float(budget.ratio(run)) == pytest.approx(budget.costs.total(masks) / budget.costs.dense, abs=1e-6)
