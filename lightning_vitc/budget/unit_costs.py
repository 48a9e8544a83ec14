"""What each piece that can be pruned costs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_vitc import costs
from lightning_vitc.architecture import ArchSpec, AttentionSpec, BlockSpec
from lightning_vitc.budget.masks import Masks, uniform


@dataclass(frozen=True)
class UnitCosts:
    """The cost of a pruned network as a sum over its pieces; exact, see `total`.

    Attributes:
        fixed: what no pruning removes.
        attn, mlp: of a branch that runs, beside its pieces.
        head: of a head beside its value dimensions: query and key rows and their product.
        dim: of a value dimension: its rows and columns, and its part of AV.
        channel: of an MLP channel.
        dense: of the whole network.
    """

    fixed: int
    attn: int
    mlp: int
    head: int
    dim: int
    channel: int
    dense: int

    @classmethod
    def of(cls, spec: ArchSpec, quantity: str = "macs", convention: str = "full", method: str = "uvc") -> "UnitCosts":
        """Read the unit costs off the cost model, by the difference that removing one piece makes."""

        def measure(*blocks: BlockSpec) -> int:
            changed = replace(spec, blocks=blocks)
            return costs.params(changed) if quantity == "params" else costs.macs(changed, convention, method)

        attn, hidden = uniform(spec)
        two = AttentionSpec(attn.head_dim, (2, 2))
        bare, whole = measure(), measure(BlockSpec(attn, hidden))
        less_dim = measure(BlockSpec(AttentionSpec(attn.head_dim, (2, 1)), None))
        less_head = measure(BlockSpec(AttentionSpec(attn.head_dim, (2,)), None))
        dim = measure(BlockSpec(two, None)) - less_dim
        head = measure(BlockSpec(two, None)) - less_head - 2 * dim
        channel = measure(BlockSpec(None, 2)) - measure(BlockSpec(None, 1))
        attn_alone = measure(BlockSpec(attn, None)) - bare - attn.num_heads * head - attn.value_dim * dim
        mlp_alone = whole - measure(BlockSpec(attn, None)) - hidden * channel
        return cls(bare, attn_alone, mlp_alone, head, dim, channel, measure(*spec.blocks))

    def branches(self, heads: Tensor, dims: Tensor, channels: Tensor) -> Tensor:
        """[L, 2] cost of attention and MLP with so many heads [L], value dimensions [L] and channels [L]."""
        attn = self.attn + heads * self.head + dims * self.dim
        return torch.stack([attn, self.mlp + channels * self.channel], dim=-1)

    def total(self, masks: Masks) -> int:
        """The cost of a pruned network."""
        per_branch = self.branches(masks.heads.sum(-1), masks.dims.sum((-1, -2)), masks.channels.sum(-1))
        return self.fixed + int((per_branch * masks.branches).sum())


def removed(masks: Masks, costs: UnitCosts) -> dict[str, Any]:
    """In percent of the dense cost, in what the budget counts: removed by skipping, by pruning what runs, and left."""
    unpruned = Masks(torch.ones_like(masks.dims), torch.ones_like(masks.channels), masks.branches)
    skipped, left = costs.dense - costs.total(unpruned), costs.total(masks)
    return {
        "blocks": int(masks.branches.any(-1).sum()),
        "skipped_percent": round(100 * skipped / costs.dense, 3),
        "pruned_percent": round(100 * (costs.dense - skipped - left) / costs.dense, 3),
        "left_percent": round(100 * left / costs.dense, 3),
    }
