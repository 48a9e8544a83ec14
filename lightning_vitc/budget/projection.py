"""The exact projection onto a budget: remove the pieces of least importance per cost until it is met.

The pieces of a head, or of an MLP, go in the order of their importance, in chunks of `round_to`: a chain. Where a
later chunk is the better bargain (the last one of a head frees queries and keys too), it is merged with those
before it, so that along every chain the importance per cost only grows. Then the best bargains over all chains
are the greedy solution of the knapsack, and what the last one takes too much is given back in small pieces. Where
multiples are nobody's wish but a default, single channels of one MLP fill what is left of the budget in the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from lightning_vitc.budget.masks import ATTN, MLP, Masks
from lightning_vitc.budget.unit_costs import StackCosts, UnitCosts
from lightning_vitc.schema import MinKeepConfig

ALIGNED = 8  # numbers that a vector instruction takes at once: kernels are slower at widths that are no multiple


def multiple_of(round_to: int | None, head_dim: int) -> int:
    """`budget.round_to`; by default 8, or the largest power of two that divides the width of a head."""
    return round_to or gcd(ALIGNED, head_dim)


@dataclass
class Move:
    """Removing some pieces of one chain together."""

    block: int
    head: int | None  # None: channels of the MLP
    pieces: list[int]
    loss: float
    cost: int

    @property
    def chain(self) -> tuple[int, int | None]:
        """The chain it belongs to."""
        return self.block, self.head

    @property
    def ratio(self) -> float:
        """Importance given up per cost saved."""
        return self.loss / self.cost


def project(
    masks: Masks,
    dims: Tensor,
    channels: Tensor,
    costs: UnitCosts,
    limit: int,
    least: MinKeepConfig,
    round_to: int | None = 1,
) -> Masks:
    """Prune value dimensions, heads and channels of the branches that run until the cost is at most `limit`.

    Args:
        masks: where to start; its branches are kept as they are, pieces already pruned stay so.
        dims: importance of the value dimensions, [L, H, d].
        channels: importance of the channels, [L, F].
        costs: of the pieces.
        limit: the budget.
        least: what has to stay.
        round_to: pieces of a head, and of an MLP, are left in multiples of it; `None` as in `multiple_of`, but for one
            MLP, which makes use of the budget to the last channel.

    Returns:
        Masks whose cost is at most `limit` where `least` allows it, and else the least there is.
    """
    fills, round_to = round_to is None, multiple_of(round_to, costs.head_dim)
    result, excess = masks.clone(), costs.total(masks) - limit
    moves = sorted(_all_moves(masks, dims, channels, costs, least, round_to), key=lambda move: move.ratio)
    removed: list[Move] = []
    too_large: dict[tuple[int, int | None], Move] = {}
    for move in moves:
        if excess <= 0:
            break
        if move.chain in too_large:
            continue
        of_block = costs.of_block(move.block)
        if move.cost - excess > round_to * max(of_block.dim, of_block.channel):
            too_large[move.chain] = move  # others may come closer to the limit
            continue
        excess -= _apply(result, move, keep=False)
        removed.append(move)
    for move in sorted(too_large.values(), key=lambda move: move.cost):
        if excess > 0:
            excess -= _apply(result, move, keep=False)
            removed.append(move)
    slack = _give_back(result, removed, -excess)
    if fills:
        _fill(result.channels, masks.channels & ~result.channels, channels, slack, costs)
    return result


def _give_back(masks: Masks, removed: list[Move], slack: int) -> int:
    """Restore the most important removals that fit, of each chain the last one first; what is left of the slack."""
    closed: set[tuple[int, int | None]] = set()
    for move in reversed(removed):
        if move.chain not in closed and move.cost <= slack:
            slack -= move.cost
            _apply(masks, move, keep=True)
        else:
            closed.add(move.chain)
    return slack


def _fill(channels: Tensor, gone: Tensor, importance: Tensor, slack: int, costs: UnitCosts) -> None:
    """Restore single channels [L, F] within the slack, in the block that has lost the most important of them."""
    too_dear = torch.tensor([costs.of_block(block).channel > slack for block in range(len(channels))])
    gone = gone & ~too_dear[:, None]
    if not gone.any():
        return
    scores = importance.masked_fill(~gone, -1.0)
    block = int(scores.amax(-1).argmax())
    count = slack // costs.of_block(block).channel
    channels[block, scores[block].topk(min(count, int(gone[block].sum()))).indices] = True


def _apply(masks: Masks, move: Move, keep: bool) -> int:
    if move.head is None:
        masks.channels[move.block, move.pieces] = keep
    else:
        masks.dims[move.block, move.head, move.pieces] = keep
    return move.cost


def _all_moves(
    masks: Masks, dims: Tensor, channels: Tensor, costs: UnitCosts, least: MinKeepConfig, round_to: int
) -> Iterator[Move]:
    for block in range(masks.branches.shape[0]):
        of_block = costs.of_block(block)
        if masks.branches[block, ATTN]:
            protected = _most_important(dims[block], masks.heads[block], least.heads)
            for head in masks.heads[block].nonzero().flatten().tolist():
                scores = dims[block, head].masked_fill(~masks.dims[block, head], float("inf"))
                yield from _head_chain(block, head, scores, of_block, least.dims, round_to, head in protected)
        if masks.branches[block, MLP]:
            scores = channels[block].masked_fill(~masks.channels[block], float("inf"))
            chunks = _chunks(scores, rounded_up(least.channels, round_to), round_to)
            yield from _merged([Move(block, None, *chunk, cost=of_block.channel * len(chunk[0])) for chunk in chunks])


def _most_important(dims: Tensor, heads: Tensor, count: int) -> set[int]:
    """The heads of a block that stay, as many as have to."""
    importance = dims.sum(-1).masked_fill(~heads, -1.0)
    return set(importance.topk(min(count, int(heads.sum()))).indices.tolist())


def _head_chain(
    block: int, head: int, scores: Tensor, costs: StackCosts, least: int, round_to: int, protected: bool
) -> list[Move]:
    chunks = list(_chunks(scores, rounded_up(least, round_to), round_to))
    moves = [Move(block, head, *chunk, cost=costs.dim * len(chunk[0])) for chunk in chunks]
    if protected:
        return _merged(moves)
    gone = {piece for move in moves for piece in move.pieces}
    rest = [piece for piece in scores.isfinite().nonzero().flatten().tolist() if piece not in gone]
    return _merged([*moves, Move(block, head, rest, float(scores[rest].sum()), costs.head + costs.dim * len(rest))])


def _chunks(scores: Tensor, least: int, size: int) -> Iterator[tuple[list[int], float]]:
    """The pieces that may go, least important first, in chunks that leave a multiple of `size`."""
    alive = int(scores.isfinite().sum())
    order = torch.argsort(scores, stable=True)[:alive]
    values = scores[order].tolist()
    positions = order.tolist()
    first = alive % size or size  # the first chunk leaves a multiple
    start = 0
    while start < alive:
        stop = start + (first if start == 0 else size)
        if alive - stop < least:
            return
        yield positions[start:stop], sum(values[start:stop])
        start = stop


def rounded_up(least: int, size: int) -> int:
    """The first multiple of `size` that is at least `least`."""
    return -(-least // size) * size


def _merged(moves: list[Move]) -> list[Move]:
    """Merge a move with the one before while that makes the better bargain (pool adjacent violators)."""
    merged: list[Move] = []
    for move in moves:
        while merged and merged[-1].ratio > move.ratio:
            before = merged.pop()
            pieces = before.pieces + move.pieces
            move = Move(move.block, move.head, pieces, before.loss + move.loss, before.cost + move.cost)
        merged.append(move)
    return merged
