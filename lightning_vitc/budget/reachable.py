"""What pruning and skipping can reach together: how many blocks stay, the least that can be left, the finest step."""

import math
from math import gcd

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.plan import Reachable
from lightning_vitc.budget.projection import multiple_of, project, rounded_up
from lightning_vitc.budget.prunable import pruned_spec
from lightning_vitc.budget.stacks import necessary, stacks_of
from lightning_vitc.budget.target import Target
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig


def least_blocks(least: int | None, share: float | None, ratio: float, depth: int) -> int:
    """Blocks that stay: the user's minimum, or so many that skipping has removed its share, rounded up; or one.

    Gates are quicker at the budget than cuts: left alone they take all of it, and the network collapses to few blocks.

    Args:
        least: the user's minimum.
        share: of what is removed, removed by skipping at most; `None` for any.
        ratio: the budget over the dense cost.
        depth: blocks of the dense network.
    """
    return least or (1 if share is None else max(1, math.ceil((1 - share * (1 - ratio)) * depth)))


def smallest(masks: Masks, costs: UnitCosts, budget: BudgetConfig) -> Masks:
    """All that pruning could remove of the branches that run."""
    ones = masks.dims.float(), masks.channels.float()
    return project(masks, *ones, costs, 0, budget.min_keep, budget.round_to)


def reachable_of(spec: ArchSpec, costs: UnitCosts, budget: BudgetConfig, target: Target, *, prune: bool, skip: bool,
             share: float | None) -> Reachable:  # fmt: skip
    """From the least that can be left to the dense network.

    Args:
        spec: the dense network.
        costs: of its pieces.
        budget: minima and multiples.
        target: what is asked for.
        prune: whether heads, dimensions and channels are pruned.
        skip: whether blocks are skipped.
        share: of what is removed, removed by skipping at most; `None` for any.
    """

    always = necessary(spec)
    cheapest = sorted(range(spec.depth), key=lambda number: (not always[number], costs.of_block(number).whole))

    def cost(blocks: int) -> int:
        masks = Masks.full(spec)
        masks.branches[cheapest[blocks:]] = False
        masks = smallest(masks, costs, budget) if prune else masks
        return costs.total(masks) if target.table is None else target.measure(pruned_spec(spec, masks))

    def needed(ratio: float) -> int:
        least = least_blocks(budget.min_keep.blocks, share, ratio, spec.depth) if skip else spec.depth
        return max(least, int(always.sum()))

    possible = (blocks for blocks in range(1, spec.depth + 1) if needed(cost(blocks) / costs.dense) <= blocks)
    least, here = cost(next(possible, spec.depth)), cost(needed(target.ratio))
    step = _step(costs, budget) if prune else max(1, (costs.dense - costs.fixed) // spec.depth)
    return Reachable(here if here > target.amount else least, costs.dense, step)


def multiples(spec: ArchSpec, budget: BudgetConfig) -> dict[str, int | str]:
    """Of channels and value dimensions, for `vitc plan`, and what would be faster."""
    head_dim = gcd(*(stack.head_dim for stack in stacks_of(spec)))
    size, default = multiple_of(budget.round_to, head_dim), multiple_of(None, head_dim)
    faster = f"budget.round_to={default} is faster at the same MACs"
    return {"round_to": size, **({"hint": faster} if size % default else {})}


def _step(costs: UnitCosts, budget: BudgetConfig) -> int:
    """How far from the budget the projection may end: a piece, or a head where the minima leave no smaller one."""
    return max(_step_of(part, budget, multiple_of(budget.round_to, costs.head_dim)) for part in costs.stacks)


def _step_of(part: StackCosts, budget: BudgetConfig, size: int) -> int:
    stack, least = part.stack, budget.min_keep
    if budget.round_to is None and rounded_up(least.channels, size) < stack.channels:
        return part.channel  # single ones fill the rest
    pieces = [part.dim] * (rounded_up(least.dims, size) < stack.head_dim)
    pieces += [part.channel] * (rounded_up(least.channels, size) < stack.channels)
    return size * max(pieces) if pieces else part.whole_head
