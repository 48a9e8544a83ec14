"""The primal-dual search: the paper's examples, and what the released code gets wrong."""

import pytest
import torch

from lightning_vitc.budget.search import BudgetedSearch, SearchRates, lowest, smallest
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.schema import MinKeepConfig

BLOCK = vit_block(attention(16, (16,) * 6), 384)
SPEC = vit("small", (8, 8), (2, 2), 1, 10, 96, (BLOCK,) * 4, 0.25)


def search(**rates: float) -> BudgetedSearch:
    return BudgetedSearch(SPEC, UnitCosts.of(SPEC), MinKeepConfig(), SearchRates(**rates))


def energies(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, 6, 16, generator=generator) + 0.5, torch.rand(4, 384, generator=generator) + 0.5


def update(budget: BudgetedSearch, run: torch.Tensor, target: float, seed: int = 0) -> None:
    """What the method does after a step."""
    budget.measure(run, target)
    budget.move(*energies(seed), run)
    budget.reprice()


def test_the_bottom_norm_and_its_subgradient() -> None:
    gone, following = lowest(torch.tensor([4.0, 1, 3, 2]), torch.tensor(1.2))
    assert (float(gone), float(following)) == (3.0, 3.0)
    assert smallest(torch.tensor([4.0, 1, 3, 2]), torch.tensor(1.2)).tolist() == [False, True, False, True]


def test_the_proximal_factor() -> None:
    budget = search()
    budget.cut_channels[0], budget.dual_channels[:] = 2, 1000
    dims, channels = energies()
    weights = [[torch.ones(96, 96) for _ in range(4)], [torch.ones(96, 384) for _ in range(4)]]
    left_dims, left_channels = budget.shrink([weights], dims, channels, 1e-4)
    cut = channels[0].argsort()[:2]
    assert weights[1][0][:, cut].unique().item() == pytest.approx(0.8333, abs=1e-4)
    assert int((weights[1][0] != 1).any(0).sum()) == 2
    assert all(bool((weight == 1).all()) for weight in [*weights[0], *weights[1][1:]])
    assert torch.equal(left_dims, dims)
    assert torch.allclose(left_channels[0], channels[0] * weights[1][0][0].square())


def test_the_proximal_step_of_heads_and_dimensions_multiplies() -> None:
    budget, (dims, channels) = search(), energies()
    budget.cut_heads[1], budget.cut_dims[1], budget.dual_heads[:], budget.dual_dims[:] = 1, 3, 50, 200
    weights = [[torch.ones(96, 96) for _ in range(4)], [torch.ones(96, 384) for _ in range(4)]]
    left, _ = budget.shrink([weights], dims, channels, 1e-3)
    head = int(dims[1].sum(-1).argmin())
    factors = weights[0][1][0].view(6, 16)
    assert sorted({round(float(factor), 4) for factor in factors[head]}) == [round(1 / 1.1 / 1.4, 4), round(1 / 1.1, 4)]
    assert torch.allclose(left[1], dims[1] * factors.square())


@pytest.mark.parametrize("target", [0.2, 0.3, 0.5, 0.9])
def test_the_budget_moves_everything_from_the_first_step_and_is_met(target: float) -> None:
    budget, run = search(), torch.ones(4, 2)
    update(budget, run, target)
    for name in ("heads", "channels", "dims"):
        assert bool((getattr(budget, f"cut_{name}") > 0).all())
    for _ in range(400):
        update(budget, run, target)
    assert float(budget.ratio(run)) == pytest.approx(target, abs=0.02)


def test_the_price_does_not_wind_up() -> None:
    budget, run = search(price_limit=3.0), torch.ones(4, 2)
    for _ in range(300):
        update(budget, run, 0.0)  # out of reach
    assert float(budget.price) == 3.0
    for _ in range(300):
        update(budget, run, 1.0)
    assert float(budget.ratio(run)) > 0.9  # variables come back from their bounds


def test_a_head_and_a_channel_move_by_the_same_cost() -> None:
    budget, run = search(dual=0.0), torch.ones(4, 2)
    flat = torch.ones(4, 6, 16), torch.ones(4, 384)
    for name in ("heads", "channels", "dims"):
        getattr(budget, f"dual_{name}").zero_()
    budget.measure(run, 0.5)
    budget.move(*flat, run)
    (part,) = budget.costs.stacks
    heads = budget.cut_heads * (part.head + 16 * part.dim)
    channels = budget.cut_channels * part.channel
    dims = (budget.cut_dims * part.dim).sum(-1)
    assert torch.allclose(heads, channels)
    assert torch.allclose(dims, channels)


def test_duals_rise_by_the_energy_that_is_cut() -> None:
    """Of energies that are all alike the share that is cut: 2 of 6 heads, 95.2 (96) of 384 channels, 4 of 16."""
    budget, run = search(dual=0.01), torch.ones(4, 2)
    budget.cut_heads[:], budget.cut_channels[:], budget.cut_dims[:] = 2, 95.2, 4
    budget.move(torch.full((4, 6, 16), 7.0), torch.full((4, 384), 3.0), run)
    assert budget.dual_heads.tolist() == pytest.approx([1 + 0.01 * 2 / 6] * 4)
    assert budget.dual_channels.tolist() == pytest.approx([1 + 0.01 * 96 / 384] * 4)
    assert budget.dual_dims.flatten().tolist() == pytest.approx([1 + 0.01 * 4 / 16] * 24)


def test_a_cut_moves_by_the_pressure_less_the_dual_of_the_next_group() -> None:
    """Pressure 3 + 10 x 0.1 = 4, half of the time; the dual 1.5, the next energy 1: 4 / 2 - 1.5 = 0.5 of the rate."""
    budget, run = search(cut=0.01), torch.full((4, 2), 0.5)
    budget.price.fill_(3.0)
    budget.excess.fill_(0.1)
    budget.dual_channels[:] = 1.5
    budget.move(torch.ones(4, 6, 16), torch.ones(4, 384), run)
    block = (budget.costs.dense - budget.costs.fixed) / 4
    assert budget.cut_channels.tolist() == pytest.approx([0.01 * 0.5 * block / budget.costs.stacks[0].channel] * 4)


def test_a_head_is_as_weak_as_all_of_its_dimensions() -> None:
    """Five in one dimension and nothing in fifteen is less than one in each of sixteen."""
    budget, dims = search(), torch.ones(4, 6, 16)
    dims[0, 2] = torch.tensor([5.0] + [0.0] * 15)
    budget.cut_heads[0] = 1
    heads = budget.masks(dims, torch.ones(4, 384), torch.ones(4, 2, dtype=torch.bool)).heads
    assert (~heads).nonzero().tolist() == [[0, 2]]


def test_below_the_target_the_price_alone_presses_and_comes_down_to_nothing() -> None:
    budget, run = search(), torch.ones(4, 2)
    budget.price.fill_(0.3)
    budget.measure(run, 1.2)
    assert float(budget.excess) == pytest.approx(-0.2)
    assert float(budget.pressure) == pytest.approx(0.3)
    budget.reprice()
    assert float(budget.price) == pytest.approx(0.1)
    budget.reprice()
    assert float(budget.price) == 0.0


def test_heads_move_by_what_they_cost_now_and_nothing_moves_that_does_not_run() -> None:
    """Four of sixteen dimensions are cut already; the MLPs are skipped, so there is nothing to save in them."""
    budget, run = search(cut=0.01), torch.tensor([[1.0, 0.0]] * 4)
    for name in ("heads", "dims", "channels"):
        getattr(budget, f"dual_{name}").zero_()
    budget.price.fill_(1.0)
    budget.cut_dims[:] = 4
    budget.move(torch.ones(4, 6, 16), torch.ones(4, 384), run)
    costs, (part,) = budget.costs, budget.costs.stacks
    share = 0.01 * (costs.dense - costs.fixed) / 4
    assert budget.cut_heads.tolist() == pytest.approx([share / (part.head + 12 * part.dim)] * 4)
    assert budget.cut_dims.flatten().tolist() == pytest.approx([4 + share / 6 / part.dim] * 24)
    assert not budget.cut_channels.any()


def test_minima_are_the_bounds_of_the_cuts() -> None:
    least = MinKeepConfig(heads=2, dims=3, channels=5)
    budget, run = BudgetedSearch(SPEC, UnitCosts.of(SPEC), least, SearchRates()), torch.ones(4, 2)
    for _ in range(400):
        update(budget, run, 0.0)  # out of reach
    for name, most in (("heads", 4), ("dims", 13), ("channels", 379)):
        assert getattr(budget, f"cut_{name}").unique().tolist() == [most]


def test_what_is_logged_of_the_cuts() -> None:
    """Three of 6 heads, 96 of 384 channels and two of 16 dimensions, as percent."""
    budget, run = search(), torch.tensor([[0.5, 1.0]] * 4)
    budget.cut_heads[:], budget.cut_channels[:], budget.cut_dims[:] = 3, 96, 2
    scalars = budget.observe(run, 0.7)
    shown = [float(scalars[f"search/cut_{name}_percent"]) for name in ("heads", "channels", "dims")]
    assert shown == pytest.approx([50, 25, 12.5])
    assert [float(scalars[f"gates/{branch}_03"]) for branch in ("attn", "mlp")] == [0.5, 1.0]
    assert float(scalars["search/target"]) == pytest.approx(0.7)


def test_the_ratio_is_that_of_the_cost_model() -> None:
    budget, run = search(), torch.ones(4, 2)
    budget.cut_heads[:], budget.cut_channels[:], budget.cut_dims[:] = 2, 100, 4
    masks = budget.masks(*energies(), run.bool())
    assert float(budget.ratio(run)) == pytest.approx(budget.costs.total(masks) / budget.costs.dense, abs=1e-6)


def test_the_price_moves_without_pruning() -> None:
    budget, run = search(), torch.full((4, 2), 0.9)
    budget.measure(run, 0.5)
    budget.reprice()
    assert float(budget.price) == pytest.approx(float(budget.ratio(run)) - 0.5)
    assert float(budget.pressure) > float(budget.price)


def test_what_is_cut_is_less_important_than_all_that_is_kept() -> None:
    budget, (dims, channels) = search(), energies()
    budget.cut_heads[0], budget.cut_channels[2] = 2, 50
    dim_importance, channel_importance = budget.importance(dims, channels)
    masks = budget.masks(dims, channels, torch.ones(4, 2, dtype=torch.bool))
    assert int((~masks.dims).sum()) == 2 * 16
    assert dim_importance[~masks.dims].max() < dim_importance[masks.dims].min()
    assert channel_importance[~masks.channels].max() < channel_importance[masks.channels].min()
    order = channel_importance[2][~masks.channels[2]].argsort()
    assert torch.equal(order, channels[2][~masks.channels[2]].argsort()), "among themselves in their order"


def test_no_step_reads_a_number_back_from_the_device() -> None:
    """On the meta device whatever needs a value on the host raises."""
    budget, run = search().to("meta"), torch.ones(4, 2, device="meta")
    dims, channels = (energy.to("meta") for energy in energies())
    budget.measure(run, 0.5)
    weights = [[torch.ones(96, size, device="meta") for _ in range(4)] for size in (96, 384)]
    budget.move(*budget.shrink([weights], dims, channels, 1e-3), run)
    budget.reprice()
    assert all(scalar.is_meta for scalar in budget.observe(run, 0.5).values())
