"""What each piece that can be pruned costs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks, uniform
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import Block, Branch
from lightning_vitc.networks.spec import ArchSpec


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

        def measure(*branches: Branch | None) -> int:
            changed = spec.with_stage(*([Block(branches)] if branches else []))
            return costs.params(changed) if quantity == "params" else costs.macs(changed, convention, method)

        def heads(*values: int) -> int:
            return measure(attn.of_pieces(*values), None)

        attn, mlp = uniform(spec)
        bare, whole, no_mlp = measure(), measure(attn, mlp), measure(attn, None)
        dim = heads(2, 2) - heads(2, 1)
        head = heads(2, 2) - heads(2) - 2 * dim
        channel = measure(None, mlp.of_pieces(2)) - measure(None, mlp.of_pieces(1))
        attn_alone = no_mlp - bare - attn.groups * head - attn.width * dim
        mlp_alone = whole - no_mlp - mlp.width * channel
        dense = costs.params(spec) if quantity == "params" else costs.macs(spec, convention, method)
        return cls(bare, attn_alone, mlp_alone, head, dim, channel, dense)

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
