"""The budgeted search for what to prune and skip, by a primal-dual method (UVC, Yu et al., ICLR 2022).

Everything is vectorized over blocks and stays on its device. L blocks, H heads, d dimensions a head, F channels.
Names of the paper: s1 `cut_heads`, s3 `cut_channels`, r `cut_dims`; duals y `dual_heads`, `dual_channels`,
p `dual_dims`, z `price`.

Ours, against the faults of the released code: the variables move by their share of the dense cost, so that a head
and a channel are weighed by what they cost; energies are relative to the mean of their kind; the price of the budget
is an augmented Lagrangian with a bounded integral, so that it acts from the first step, whatever the budget, and does
not wind up; every variable may come back from its bound.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.prunable import ATTN, MLP, Masks, UnitCosts, uniform
from lightning_vitc.schema import MinKeepConfig


@dataclass
class SearchRates:
    """Step sizes of the search."""

    cut: float = 0.005  # of s and r, in shares of the dense cost of a block a step
    dual: float = 0.01  # of y and p
    price: float = 1.0  # of z
    penalty: float = 10.0  # weight of the excess itself beside its integral
    price_limit: float = 10.0  # anti-windup: z stays in 0..price_limit


class BudgetedSearch(nn.Module):
    """Cuts and duals of a network under a budget; all state is in buffers, equal on every rank.

    Args:
        spec: the dense network.
        costs: of its pieces.
        least: what has to stay.
        rates: step sizes.
    """

    cut_heads: Tensor
    cut_channels: Tensor
    cut_dims: Tensor
    dual_heads: Tensor
    dual_channels: Tensor
    dual_dims: Tensor
    price: Tensor
    excess: Tensor

    def __init__(self, spec: ArchSpec, costs: UnitCosts, least: MinKeepConfig, rates: SearchRates):
        super().__init__()
        attn, hidden = uniform(spec)
        self.heads, self.dims, self.channels = attn.num_heads, attn.head_dim, hidden
        self.costs, self.least, self.rates = costs, least, rates
        for name, shape in {
            "heads": (spec.depth,),
            "channels": (spec.depth,),
            "dims": (spec.depth, self.heads),
        }.items():
            self.register_buffer(f"cut_{name}", torch.zeros(shape))
            self.register_buffer(f"dual_{name}", torch.ones(shape))
        self.register_buffer("price", torch.zeros(()))
        self.register_buffer("excess", torch.zeros(()))

    def masks(self, dims: Tensor, channels: Tensor, branches: Tensor) -> Masks:
        """What the cuts keep, given the energies: the ceil(s) groups of smallest energy go."""
        heads = ~smallest(dims.sum(-1), self.cut_heads)
        return Masks(
            ~smallest(dims, self.cut_dims) & heads[..., None], ~smallest(channels, self.cut_channels), branches
        )

    def ratio(self, run: Tensor) -> Tensor:
        """Cost over dense cost with branches run with probability `run` [L, 2]; differentiable in `run`."""
        heads = self.heads - self.cut_heads
        dims = heads * (self.dims - self.cut_dims.mean(-1))
        per_branch = self.costs.branches(heads, dims, self.channels - self.cut_channels)
        return (self.costs.fixed + (per_branch * run).sum()) / self.costs.dense

    @torch.no_grad()
    def shrink(self, weights: list[list[Tensor]], dims: Tensor, channels: Tensor, lr: Tensor | float) -> None:
        """The proximal step: columns that are cut are divided by 1 + 2 lr dual.

        Args:
            weights: of `attn.proj` and of `mlp.fc2`, block by block; changed in place.
            dims, channels: their energies.
            lr: the learning rate of the weights.
        """
        head = torch.where(smallest(dims.sum(-1), self.cut_heads), 1 + 2 * lr * self.dual_heads[:, None], 1.0)
        dim = torch.where(smallest(dims, self.cut_dims), 1 + 2 * lr * self.dual_dims[..., None], 1.0)
        channel = torch.where(smallest(channels, self.cut_channels), 1 + 2 * lr * self.dual_channels[:, None], 1.0)
        divisors = [(head[..., None] * dim).flatten(1)[:, None], channel[:, None]]
        for kind, divisor in zip(weights, divisors, strict=True):
            torch._foreach_div_(kind, list(divisor.unbind()))

    @torch.no_grad()
    def update(self, dims: Tensor, channels: Tensor, run: Tensor, target: float) -> None:
        """Move s and r against the price and the energy of the next group, then the duals and the price.

        Args:
            dims: energies [L, H, d] of the value dimensions.
            channels: energies [L, F] of the channels.
            run: probability that each branch runs, [L, 2].
            target: the budget of this step over the dense cost.
        """
        rates, costs = self.rates, self.costs
        self.excess.copy_(self.ratio(run) - target)
        pressure = self.price + rates.penalty * self.excess.clamp_min(0)
        block = (costs.dense - costs.fixed) / len(self.cut_heads)
        head_cost = costs.head + (self.dims - self.cut_dims.mean(-1)) * costs.dim
        heads = dims.sum(-1)
        for name, energy, unit, probability, least in (
            ("heads", heads, head_cost, run[:, ATTN], self.least.heads),
            ("dims", dims, costs.dim, run[:, ATTN, None], self.least.dims),
            ("channels", channels, costs.channel, run[:, MLP], self.least.channels),
        ):
            cut, dual = getattr(self, f"cut_{name}"), getattr(self, f"dual_{name}")
            relative = energy / energy.mean().clamp_min(1e-12)
            gone, following = lowest(relative, cut)
            share = rates.cut * (pressure * probability - dual * following)
            each = block * len(cut) / cut.numel()  # a block's share goes to all variables of a kind together
            cut.add_(share * each / unit).clamp_(0, energy.shape[-1] - least)
            dual.add_(rates.dual * gone / energy.shape[-1]).clamp_min_(0)
        self.price.add_(rates.price * self.excess).clamp_(0, rates.price_limit)


def smallest(energy: Tensor, count: Tensor) -> Tensor:
    """True for the ceil(count) smallest of the last dimension: energy [..., n], count [...]."""
    ranks = energy.argsort(dim=-1, stable=True).argsort(dim=-1)
    return ranks < count.ceil()[..., None]


def lowest(energy: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the ceil(count) smallest, the bottom-s norm, and the next one, its sub-gradient in `count`."""
    ordered = energy.sort(-1).values
    number = count.ceil().long()[..., None]
    positions = torch.arange(energy.shape[-1], device=energy.device)
    gone = torch.where(positions < number, ordered, 0).sum(-1)
    return gone, ordered.gather(-1, number.clamp_max(energy.shape[-1] - 1)).squeeze(-1)
