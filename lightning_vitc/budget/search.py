"""The budgeted search for what to prune and skip, by a primal-dual method (UVC, Yu et al., ICLR 2022).

Everything is vectorized over blocks that are alike and stays on its device. L blocks, H heads, d dimensions a head,
F channels; of a network whose stages differ the largest, see `stacks`.
Names of the paper: s1 `cut_heads`, s3 `cut_channels`, r `cut_dims`; duals y `dual_heads`, `dual_channels`,
p `dual_dims`, z `price`.

Ours, against the faults of the released code: the variables move by their share of the dense cost, so that a head
and a channel are weighed by what they cost; energies are relative to the mean of their kind in a stage; the price of
the budget is an augmented Lagrangian with a bounded integral, so that it acts from the first step, whatever the budget,
and does not wind up; every variable may come back from its bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_vitc.budget.masks import ATTN, MLP, Masks
from lightning_vitc.budget.prunable import energies, outlets
from lightning_vitc.budget.stacks import Stack, joined
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.stacked import stacked
from lightning_vitc.schema import MinKeepConfig

CUT = 1e-6  # what is cut counts this much of its energy: enough to be ordered, and less than all that is kept


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
        self.costs, self.least, self.rates = costs, least, rates
        heads = max(part.stack.heads for part in costs.stacks)
        for name, shape in {"heads": (spec.depth,), "channels": (spec.depth,), "dims": (spec.depth, heads)}.items():
            self.register_buffer(f"cut_{name}", torch.zeros(shape))
            self.register_buffer(f"dual_{name}", torch.ones(shape))
        self.register_buffer("price", torch.zeros(()))
        self.register_buffer("excess", torch.zeros(()))

    def masks(self, dims: Tensor, channels: Tensor, branches: Tensor) -> Masks:
        """What the cuts keep, given the energies: the ceil(s) groups of smallest energy go."""
        kept = [self._kept(part.stack, dims, channels) for part in self.costs.stacks]
        return Masks(
            joined([of_dims for of_dims, _ in kept]), joined([of_channels for _, of_channels in kept]), branches
        )

    def _kept(self, stack: Stack, dims: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """[n, H, d] and [n, F] of blocks that are alike."""
        dims, channels = stack.of_dims(dims), stack.of_channels(channels)
        heads = ~smallest(dims.sum(-1), self.cut_heads[stack.rows])
        of_dims = ~smallest(dims, stack.of_heads(self.cut_dims)) & heads[..., None]
        return of_dims, ~smallest(channels, self.cut_channels[stack.rows])

    def ratio(self, run: Tensor) -> Tensor:
        """Cost over dense cost with branches run with probability `run` [L, 2]; differentiable in `run`.

        Of s and r themselves, not of their ceilings: masks remove up to one group more of each. The budget is
        met by the projection, not by this number.
        """
        return (self.costs.fixed + (self.branches() * run).sum()) / self.costs.dense

    def branches(self) -> Tensor:
        """[L, 2] cost of attention and MLP, of s and r as they are now."""
        found = [self._branches(part) for part in self.costs.stacks]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _branches(self, part: StackCosts) -> Tensor:
        stack = part.stack
        channels = stack.channels - self.cut_channels[stack.rows]
        if stack.attn is None:
            return part.branches(torch.zeros_like(channels), torch.zeros_like(channels), channels)
        heads = stack.heads - self.cut_heads[stack.rows]
        dims = heads * (stack.head_dim - stack.of_heads(self.cut_dims).mean(-1))
        return part.branches(heads, dims, channels)

    @torch.no_grad()
    def observe(self, run: Tensor, target: float) -> dict[str, Tensor]:
        """Scalars for the logs: ratio, target, price, mean duals, mean cuts in percent, and how likely blocks run."""
        scalars = {
            "search/ratio": self.ratio(run),
            "search/target": run.new_full((), target),
            "search/price": self.price,
        }
        for name in ("heads", "dims", "channels"):
            means = [found for part in self.costs.stacks if (found := self._means(name, part.stack))]
            if not means:
                continue
            duals, cuts = zip(*means, strict=True)
            scalars[f"search/dual_{name}"] = torch.stack(duals).mean()
            scalars[f"search/cut_{name}_percent"] = torch.stack(cuts).mean()
        for number, (attn, mlp) in enumerate(run.unbind()):
            scalars |= {f"gates/attn_{number:02d}": attn, f"gates/mlp_{number:02d}": mlp}
        return scalars

    def _means(self, name: str, stack: Stack) -> tuple[Tensor, Tensor] | None:
        """The mean dual, and the mean cut in percent, of a kind of pieces in a stack, where it has some."""
        size = {"heads": stack.heads, "dims": stack.head_dim, "channels": stack.channels}[name]
        if not size:
            return None
        dual, cut = (_part(getattr(self, f"{what}_{name}"), stack) for what in ("dual", "cut"))
        return dual.mean(), 100 * cut.mean() / size

    @torch.no_grad()
    def shrink(
        self, weights: Sequence[Sequence[Sequence[Tensor]]], dims: Tensor, channels: Tensor, lr: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """The proximal step: columns that are cut are divided by 1 + 2 lr dual.

        Args:
            weights: the `outlets` of a network; changed in place.
            dims, channels: their energies, [L, H, d] and [L, F].
            lr: the learning rate of the weights.

        Returns:
            The energies after it.
        """
        after = [self._shrink(part.stack, kinds, dims, channels, lr)
                 for part, kinds in zip(self.costs.stacks, weights, strict=True)]  # fmt: skip
        return joined([of_dims for of_dims, _ in after]), joined([of_channels for _, of_channels in after])

    def _shrink(self, stack: Stack, weights: Sequence[Sequence[Tensor]], dims: Tensor, channels: Tensor,
                lr: Tensor | float) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows, dims, channels = stack.rows, stack.of_dims(dims), stack.of_channels(channels)
        cut_dims, dual_dims = stack.of_heads(self.cut_dims), stack.of_heads(self.dual_dims)
        head = 1 + 2 * lr * smallest(dims.sum(-1), self.cut_heads[rows]) * self.dual_heads[rows, None]
        dim = 1 + 2 * lr * smallest(dims, cut_dims) * dual_dims[..., None]
        channel = 1 + 2 * lr * smallest(channels, self.cut_channels[rows]) * self.dual_channels[rows, None]
        dim = head[..., None] * dim
        for kind, divisor in zip(weights, (dim.flatten(1), channel), strict=True):
            if not kind:
                continue
            weight = stacked(kind)
            weight.div_(divisor.view(len(divisor), 1, -1, *(1,) * (weight.ndim - 3)))
        return dims / dim.square(), channels / channel.square()

    @torch.no_grad()
    def prune(self, network: Backbone, run: Tensor, lr: Tensor | float) -> None:
        """The proximal step on the weights of a network at their learning rate `lr`, then a step of the cuts."""
        self.move(*self.shrink(outlets(network), *energies(network), lr), run)

    @torch.no_grad()
    def measure(self, run: Tensor, target: float) -> None:
        """Note by how much the cost with branches run with probability `run` [L, 2] exceeds the target ratio."""
        self.excess.copy_(self.ratio(run) - target)

    @property
    def pressure(self) -> Tensor:
        """What a unit of the dense cost is worth in loss: the price and the penalty of the excess."""
        return self.price + self.rates.penalty * self.excess.clamp_min(0)

    @torch.no_grad()
    def move(self, dims: Tensor, channels: Tensor, run: Tensor) -> None:
        """Move s and r against the pressure and the energy of the next group, then their duals.

        Args:
            dims: energies [L, H, d] of the value dimensions.
            channels: energies [L, F] of the channels.
            run: probability that each branch runs, [L, 2].
        """
        for part in self.costs.stacks:
            stack = part.stack
            self._move(part, stack.of_dims(dims), stack.of_channels(channels), run[stack.rows])

    def _move(self, part: StackCosts, dims: Tensor, channels: Tensor, run: Tensor) -> None:
        rates, stack, pressure = self.rates, part.stack, self.pressure
        block = (self.costs.dense - self.costs.fixed) / len(self.cut_heads)
        head_cost = part.head + (stack.head_dim - stack.of_heads(self.cut_dims).mean(-1)) * part.dim
        for name, energy, unit, probability, least in (
            ("heads", dims.sum(-1), head_cost, run[:, ATTN], self.least.heads),
            ("dims", dims, part.dim, run[:, ATTN, None], self.least.dims),
            ("channels", channels, part.channel, run[:, MLP], self.least.channels),
        ):
            if not energy.numel():
                continue
            cut, dual = (_part(getattr(self, f"{what}_{name}"), stack) for what in ("cut", "dual"))
            gone, following = lowest(relative(energy), cut)
            share = torch.addcmul(pressure * probability, dual, following, value=-1)
            each = (
                rates.cut * block * len(cut) / cut.numel()
            )  # a block's share goes to all variables of a kind together
            cut.add_(share * (each / unit)).clamp_(0, energy.shape[-1] - least)
            dual.add_(gone, alpha=rates.dual / energy.shape[-1])

    @torch.no_grad()
    def reprice(self) -> None:
        """Dual ascent on the price of the budget."""
        self.price.add_(self.excess, alpha=self.rates.price).clamp_(0, self.rates.price_limit)

    def importance(self, dims: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """What the projection goes by: relative energies, those of what is cut so far below the others.

        Args:
            dims, channels: energies, [L, H, d] and [L, F].
        """
        masks = self.masks(dims, channels, torch.ones(len(dims), 2, dtype=torch.bool))
        stacks = [part.stack for part in self.costs.stacks]
        of_dims = joined([relative(stack.of_dims(dims)) for stack in stacks])
        of_channels = joined([relative(stack.of_channels(channels)) for stack in stacks])
        return of_dims * (masks.dims + CUT), of_channels * (masks.channels + CUT)


def _part(tensor: Tensor, stack: Stack) -> Tensor:
    """Of the variables of all blocks, [L] or [L, H], those of a stack: a view."""
    return tensor[stack.rows] if tensor.ndim == 1 else stack.of_heads(tensor)


def relative(energy: Tensor) -> Tensor:
    """Energies over their mean."""
    return energy / energy.mean().clamp_min(1e-12)


def smallest(energy: Tensor, count: Tensor) -> Tensor:
    """True for the ceil(count) smallest of the last dimension: energy [..., n], count [...]."""
    ranks = energy.argsort(dim=-1, stable=True).argsort(dim=-1)
    return ranks < count[..., None]  # of whole numbers those below count are those below its ceiling


def lowest(energy: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the ceil(count) smallest, the bottom-s norm, and the next one, its sub-gradient in `count`."""
    ordered, size = energy.sort(-1).values, energy.shape[-1]
    gone = ordered * (torch.arange(size, device=energy.device) < count[..., None])
    following = count.ceil().long().clamp_max(size - 1)[..., None]
    return gone.sum(-1), ordered.gather(-1, following).squeeze(-1)
