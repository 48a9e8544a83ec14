"""What can be pruned of a uniform ViT, and what each piece costs: heads, value dimensions, channels, branches.

Masks are boolean, `True` is kept. L blocks, H heads, d dimensions a head, F channels.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc import costs
from lightning_vitc.architecture import ArchSpec, AttentionSpec, BlockSpec
from lightning_vitc.errors import UserError
from lightning_vitc.kept import AttentionKept, BlockKept, Kept
from lightning_vitc.schema import MinKeepConfig

ATTN, MLP = 0, 1  # columns of `branches`


@dataclass
class Masks:
    """A pruned network.

    Attributes:
        dims: [L, H, d] value dimensions; a head without any is removed whole, queries and keys too.
        channels: [L, F] MLP channels.
        branches: [L, 2] whether attention and MLP of a block run at all.
    """

    dims: Tensor
    channels: Tensor
    branches: Tensor

    @classmethod
    def full(cls, spec: ArchSpec) -> "Masks":
        """Everything is kept.

        Raises:
            UserError: for a network whose blocks or heads differ.
        """
        attn, hidden = uniform(spec)
        shape = (spec.depth, attn.num_heads, attn.head_dim)
        return cls(*(torch.ones(s, dtype=torch.bool) for s in (shape, (spec.depth, hidden), (spec.depth, 2))))

    @property
    def heads(self) -> Tensor:
        """[L, H] heads that keep a dimension."""
        return self.dims.any(-1)

    def clone(self) -> "Masks":
        """A copy."""
        return Masks(self.dims.clone(), self.channels.clone(), self.branches.clone())

    def running(self, branches: Tensor) -> "Masks":
        """The same pruning where other branches run."""
        return Masks(self.dims, self.channels, branches)


def uniform(spec: ArchSpec) -> tuple[AttentionSpec, int]:
    """Attention and hidden width of a network whose blocks are all alike, as timm's are."""
    first = spec.blocks[0]
    shapes = {(block.attn, block.hidden) for block in spec.blocks}
    if first.attn is None or first.hidden is None or len(shapes) > 1:
        raise UserError(f"model.name: {spec.name} is already pruned; start from a dense model")
    return first.attn, first.hidden


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


@torch.no_grad()
def energies(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Squared norms of the columns of `attn.proj` [L, H, d] and of `mlp.fc2` [L, F] of a uniform network."""
    heads = network.blocks[0].attn.num_heads  # type: ignore[union-attr, index, operator]
    proj, fc2 = (
        torch.stack([torch.linalg.vector_norm(weight, dim=0) for weight in weights]).square()
        for weights in proj_and_fc2(network)
    )
    return proj.unflatten(1, (heads, -1)), fc2


def proj_and_fc2(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The weights whose columns are pruned, block by block: of `attn.proj` and of `mlp.fc2`."""
    blocks: Any = network.blocks
    return [block.attn.proj.weight for block in blocks], [block.mlp.fc2.weight for block in blocks]


def as_indices(masks: Masks) -> dict[str, Any]:
    """What is kept, block by block, as a record: the value dimensions of every head, channels, branches."""
    dims = [[head.nonzero().flatten().tolist() for head in block] for block in masks.dims]
    channels = [block.nonzero().flatten().tolist() for block in masks.channels]
    return {"dims": dims, "channels": channels, "branches": masks.branches.tolist()}


def from_indices(spec: ArchSpec, record: dict[str, Any]) -> Masks:
    """The masks of a record."""
    masks = Masks.full(spec)
    masks.branches = torch.tensor(record["branches"])
    for block, (heads, channels) in enumerate(zip(record["dims"], record["channels"], strict=True)):
        masks.channels[block] = torch.isin(torch.arange(masks.channels.shape[1]), torch.tensor(channels))
        for head, dims in enumerate(heads):
            masks.dims[block, head] = torch.isin(torch.arange(masks.dims.shape[2]), torch.tensor(dims))
    return masks


def check_minima(least: MinKeepConfig, spec: ArchSpec) -> None:
    """Refuse minima that are more than the dense network has.

    Raises:
        UserError: naming the first.
    """
    attn, hidden = uniform(spec)
    most = {"heads": attn.num_heads, "dims": attn.head_dim, "channels": hidden, "blocks": spec.depth}
    for key, limit in most.items():
        if (asked := getattr(least, key)) is not None and asked > limit:
            raise UserError(f"budget.min_keep.{key}: {asked} is more than the {limit} that {spec.name} has")


def pruned_spec(spec: ArchSpec, masks: Masks) -> ArchSpec:
    """The architecture that is left; a block without branches is gone."""
    attn, _ = uniform(spec)
    blocks = []
    for block, dims, channels, (run_attn, run_mlp) in zip(
        spec.blocks, masks.dims.sum(-1).tolist(), masks.channels.sum(-1).tolist(), masks.branches.tolist(), strict=True
    ):
        kept = AttentionSpec(attn.head_dim, tuple(count for count in dims if count)) if run_attn else None
        kept = kept if kept and kept.value_dims else None
        gates = block.gates[0] if kept else None, block.gates[1] if run_mlp else None
        if run_attn or run_mlp:
            blocks.append(BlockSpec(kept, channels if run_mlp else None, gates))
    return replace(spec, blocks=tuple(blocks))


def kept_of(spec: ArchSpec, masks: Masks) -> Kept:
    """Where the weights that are left are in the dense network."""
    attn, _ = uniform(spec)
    whole = slice(0, spec.embed_dim)
    blocks = []
    for number in range(spec.depth):
        run_attn, run_mlp = masks.branches[number].tolist()
        if not (run_attn or run_mlp):
            continue
        hidden = masks.channels[number].nonzero().flatten() if run_mlp else None
        kept = _attention_kept(attn, masks.dims[number]) if run_attn and masks.dims[number].any() else None
        blocks.append(BlockKept(number, kept, hidden))
    return Kept(pruned_spec(spec, masks), whole, tuple(blocks))


def _attention_kept(attn: AttentionSpec, dims: Tensor) -> AttentionKept:
    """Rows of q and k of the heads that are left, rows of v and columns of proj of their dimensions."""
    heads = dims.any(-1)[:, None].expand_as(dims).flatten().nonzero().flatten()
    values = dims.flatten().nonzero().flatten()
    rows = torch.cat([heads, attn.qk_dim + heads, 2 * attn.qk_dim + values])
    return AttentionKept(rows, values, slice(0, attn.head_dim))


def masked_weights(weights: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """The dense network's weights with the pruned columns of `attn.proj` and `mlp.fc2`, and whole branches, zero.

    Running them gives the logits of the compacted network: what feeds a zero column does not matter.
    """
    changed = dict(weights)
    for number, (run_attn, run_mlp) in enumerate(masks.branches.tolist()):
        for layer, columns, run in (
            ("attn.proj", masks.dims[number].flatten(), run_attn), ("mlp.fc2", masks.channels[number], run_mlp),
        ):  # fmt: skip
            name = f"blocks.{number}.{layer}"
            weight = weights[f"{name}.weight"]
            changed[f"{name}.weight"] = weight * (columns.to(weight.device) & run)
            if (bias := weights.get(f"{name}.bias")) is not None and not run:
                changed[f"{name}.bias"] = torch.zeros_like(bias)
    return changed
