"""What each piece that can be pruned costs."""

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.stacks import Stack, stacks_of
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import Block, Branch
from lightning_vitc.networks.spec import ArchSpec


@dataclass(frozen=True)
class StackCosts:
    """Of the pieces of blocks that are alike.

    Attributes:
        stack: the blocks.
        attn, mlp: of a branch that runs, beside its pieces.
        head: of a head beside its value dimensions: query and key rows and their product.
        dim: of a value dimension: its rows and columns, and its part of AV.
        channel: of an MLP channel.
    """

    stack: Stack
    attn: int
    mlp: int
    head: int
    dim: int
    channel: int

    @property
    def whole_attn(self) -> int:
        """Of an attention of which nothing is removed."""
        return self.attn + self.stack.heads * self.whole_head

    @property
    def whole_head(self) -> int:
        """Of a head with all its value dimensions."""
        return self.head + self.stack.head_dim * self.dim

    @property
    def whole_mlp(self) -> int:
        """Of an MLP of which nothing is removed."""
        return self.mlp + self.stack.channels * self.channel

    @property
    def whole(self) -> int:
        """Of a block of which nothing is removed."""
        return self.whole_attn + self.whole_mlp

    def branches(self, heads: Tensor, dims: Tensor, channels: Tensor) -> Tensor:
        """[n, 2] of attention and MLP with so many heads [n], value dimensions [n] and channels [n]."""
        attn = self.attn + heads * self.head + dims * self.dim
        return torch.stack([attn, self.mlp + channels * self.channel], dim=-1)


@dataclass(frozen=True)
class UnitCosts:
    """The cost of a pruned network as a sum over its pieces; exact, see `total`.

    Attributes:
        fixed: what no pruning removes.
        stacks: of its pieces, blocks that are alike together.
        dense: of the whole network.
    """

    fixed: int
    stacks: tuple[StackCosts, ...]
    dense: int

    @classmethod
    def of(cls, spec: ArchSpec, quantity: str = "macs", convention: str = "full", method: str = "uvc") -> "UnitCosts":
        """Read the unit costs off the cost model, by the difference that removing one piece makes."""

        def measure(changed: ArchSpec) -> int:
            return costs.params(changed) if quantity == "params" else costs.macs(changed, convention, method)

        stacks = stacks_of(spec)
        found = (_of_stack(stack, lambda *blocks, stack=stack: measure(stack.alone(spec, *blocks)))
                 for stack in stacks)  # fmt: skip
        return cls(measure(spec.without_branches()), tuple(found), measure(spec))

    @property
    def head_dim(self) -> int:
        """What the widths of all heads are multiples of."""
        return gcd(*(part.stack.head_dim for part in self.stacks))

    def of_block(self, number: int) -> StackCosts:
        """Of the pieces of a block."""
        return next(part for part in self.stacks if number < part.stack.stop)

    def branches(self, heads: Tensor, dims: Tensor, channels: Tensor) -> Tensor:
        """[L, 2] cost of attention and MLP with so many heads [L], value dimensions [L] and channels [L]."""
        found = [part.branches(heads[part.stack.rows], dims[part.stack.rows], channels[part.stack.rows])
                 for part in self.stacks]  # fmt: skip
        return found[0] if len(found) == 1 else torch.cat(found)

    def total(self, masks: Masks) -> int:
        """The cost of a pruned network."""
        per_branch = self.branches(masks.heads.sum(-1), masks.dims.sum((-1, -2)), masks.channels.sum(-1))
        return self.fixed + int((per_branch * masks.branches).sum())


def _of_stack(stack: Stack, measure: Any) -> StackCosts:
    bare = measure(Block((None, None)))

    def branch(*branches: Branch | None) -> int:
        return measure(Block(branches)) - bare

    def heads(*values: int) -> int:
        return branch(stack.attn and stack.attn.of_pieces(*values), None)

    def channels(count: int) -> int:
        return branch(None, stack.mlp.of_pieces(count))

    if stack.attn is None:
        channel = channels(2) - channels(1) if stack.channels else 0
        return StackCosts(stack, 0, branch(None, stack.mlp) - stack.channels * channel, 0, 0, channel)
    dim = heads(2, 2) - heads(2, 1)
    head = heads(2, 2) - heads(2) - 2 * dim
    channel = channels(2) - channels(1)
    attn = branch(stack.attn, None) - stack.heads * (head + stack.head_dim * dim)
    return StackCosts(stack, attn, branch(None, stack.mlp) - stack.channels * channel, head, dim, channel)


def removed(masks: Masks, costs: UnitCosts) -> dict[str, Any]:
    """In percent of the dense cost, in what the budget counts: removed by skipping, by pruning what runs, and left."""
    unpruned = Masks(torch.ones_like(masks.dims), torch.ones_like(masks.channels), masks.branches)
    for part in costs.stacks:  # nothing is beyond a smaller block
        unpruned.dims[part.stack.rows, part.stack.heads :] = False
        unpruned.dims[part.stack.rows, :, part.stack.head_dim :] = False
        unpruned.channels[part.stack.rows, part.stack.channels :] = False
    skipped, left = costs.dense - costs.total(unpruned), costs.total(masks)
    return {
        "blocks": int(masks.branches.any(-1).sum()),
        "skipped_percent": round(100 * skipped / costs.dense, 3),
        "pruned_percent": round(100 * (costs.dense - skipped - left) / costs.dense, 3),
        "left_percent": round(100 * left / costs.dense, 3),
    }
