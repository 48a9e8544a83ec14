"""From a ranking to what is kept within a budget: any budget, without another look at images."""

from dataclasses import replace
from typing import Literal

import torch

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.plan import Reachable
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.reachable import reachable_of, smallest
from lightning_vitc.budget.stacks import necessary
from lightning_vitc.budget.target import Target
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.compensation.ranking import Ranking
from lightning_vitc.errors import UserError
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig

Skip = Literal["block", "none"]


def decide(ranking: Ranking, spec: ArchSpec, costs: UnitCosts, limit: int, budget: BudgetConfig, skip: Skip) -> Masks:
    """What is left within a limit, by the least importance that is given up.

    Blocks go in the order of their importance per cost. For every number of them the projection meets the limit with
    pieces of those that stay; the number whose blocks and pieces matter least together is taken, the smaller one of two
    that are equal.

    Args:
        ranking: of the dense network.
        spec: the dense network.
        costs: of its pieces.
        limit: in what these count.
        budget: minima and multiples.
        skip: whether whole blocks may go.
    """
    best, least = None, float("inf")
    for gone in _prefixes(ranking, spec, costs, budget, skip):
        start = Masks.full(spec)
        start.branches[gone] = False
        masks = project(start, ranking.dims, ranking.channels, costs, limit, budget.min_keep, budget.round_to)
        loss = _given_up(ranking, start, masks, gone) if costs.total(masks) <= limit else float("inf")
        if best is None or loss < least:
            best, least = masks, loss
    if best is None or least == float("inf"):
        raise UserError(
            f"budget: {limit:,} cannot be reached with budget.min_keep, by the order in which blocks go; ask for more"
        )
    return best


def removable(spec: ArchSpec) -> list[int]:
    """Blocks that may go: those that keep the stream, and have one before them in their stage to take their mean."""
    always = necessary(spec)
    starts = {sum(spec.depths[:stage]) for stage in range(len(spec.depths))}
    return [number for number in range(spec.depth) if number not in starts and not always[number]]


def reachable(spec: ArchSpec, costs: UnitCosts, budget: BudgetConfig, target: Target, skip: Skip) -> Reachable:
    """From the minima of the blocks that have to stay to the dense network."""
    found = reachable_of(spec, costs, budget, target, prune=True, skip=False, share=None)
    if skip == "none":
        return found
    return replace(found, least=least_of(spec, costs, budget, skip))


def least_of(spec: ArchSpec, costs: UnitCosts, budget: BudgetConfig, skip: Skip) -> int:
    """What the minima leave: of as many blocks as have to stay."""
    masks, gone = Masks.full(spec), removable(spec) if skip == "block" else []
    dearest = sorted(gone, key=lambda number: -costs.of_block(number).whole)
    masks.branches[dearest[: spec.depth - (budget.min_keep.blocks or 1)]] = False
    return min(costs.total(smallest(masks, costs, budget)), costs.total(smallest(Masks.full(spec), costs, budget)))


def _prefixes(ranking: Ranking, spec: ArchSpec, costs: UnitCosts, budget: BudgetConfig, skip: Skip) -> list[list[int]]:
    if skip == "none":
        return [[]]
    ratios = {number: float(ranking.blocks[number]) / costs.of_block(number).whole for number in removable(spec)}
    order = sorted(ratios, key=lambda number: (ratios[number], number))
    most = min(len(order), spec.depth - (budget.min_keep.blocks or 1))
    return [order[:count] for count in range(most + 1)]


def _given_up(ranking: Ranking, start: Masks, masks: Masks, gone: list[int]) -> float:
    """Of blocks, and of pieces of those that stay."""
    runs = start.branches.any(-1)
    dims = ranking.dims.double()[runs] * (start.dims & ~masks.dims)[runs]
    channels = ranking.channels.double()[runs] * (start.channels & ~masks.channels)[runs]
    return float(dims.sum() + channels.sum() + ranking.blocks.double()[torch.tensor(gone, dtype=torch.long)].sum())
