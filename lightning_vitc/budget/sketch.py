"""What a budget typically leaves, before anything is trained: the projection at random importances.

Heads, blocks and pieces differ as they do after a search; which of them stay, only a training can tell.
"""

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.plan import Sketch
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.prunable import pruned_spec
from lightning_vitc.budget.stacks import necessary
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig


def sketch_of(
    spec: ArchSpec, costs: UnitCosts, limit: int, budget: BudgetConfig, blocks: int | None = None, prune: bool = True
) -> Sketch:
    """The network that pruning, and skipping as far as it may, leaves of a dense one.

    Args:
        spec: the dense network.
        costs: of its pieces.
        limit: what it may cost.
        budget: minima and multiples.
        blocks: that stay at least; `None` where none is skipped.
        prune: whether what runs is pruned.
    """
    masks = Masks.full(spec)
    if blocks is not None:
        blocks = max(blocks, int(necessary(spec).sum()))
        stays = blocks if prune else _most_blocks(spec, masks, costs, limit, blocks)
        masks.branches[_leaving(spec, costs, len(masks.branches) - stays)] = False
    if prune:
        masks = project(masks, *importances(masks, costs), costs, limit, budget.min_keep, budget.round_to)
    return Sketch(pruned_spec(spec, masks))


def importances(masks: Masks, costs: UnitCosts, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of value dimensions [L, H, d] and of channels [L, F]: even over the kinds by what they cost, uneven within."""
    generator = torch.Generator().manual_seed(seed)
    depth, heads, _ = masks.dims.shape
    dims = torch.rand(masks.dims.shape, generator=generator)
    dims *= torch.randn(depth, heads, 1, generator=generator).mul(0.5).exp()
    channels = torch.rand(masks.channels.shape, generator=generator)
    dearest = max(part.channel for part in costs.stacks)
    for part in costs.stacks:
        channels[part.stack.rows] = channels[part.stack.rows] * part.channel / (part.dim or dearest)
    return dims, channels * torch.randn(depth, 1, generator=generator).mul(0.3).exp()


def _leaving(spec: ArchSpec, costs: UnitCosts, count: int) -> list[int]:
    """The blocks that go where so many do: the dearest, of equals the last."""
    always = necessary(spec)
    blocks = sorted(range(spec.depth), key=lambda number: (not always[number], costs.of_block(number).whole))
    return blocks[len(blocks) - count :]


def _most_blocks(spec: ArchSpec, masks: Masks, costs: UnitCosts, limit: int, least: int) -> int:
    """As many whole blocks as the limit has room for."""
    for count in range(len(masks.branches), least, -1):
        branches = masks.branches.clone()
        branches[_leaving(spec, costs, len(branches) - count)] = False
        if costs.total(masks.running(branches)) <= limit:
            return count
    return least
