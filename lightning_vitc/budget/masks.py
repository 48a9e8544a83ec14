"""What of a network is kept: heads, value dimensions, channels and branches.

Masks are boolean, `True` is kept. L blocks, H heads, d dimensions a head, F channels; see `stacks` for networks whose
stages differ.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.budget.stacks import joined, present, stacks_of
from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import ATTN as ATTN
from lightning_vitc.networks.blocks import MLP as MLP
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import MinKeepConfig


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
            UserError: for a network whose blocks or heads differ within a stage.
        """
        stacks = stacks_of(spec)
        dims = [torch.ones(len(stack), stack.heads, stack.head_dim, dtype=torch.bool) for stack in stacks]
        channels = [torch.ones(len(stack), stack.channels, dtype=torch.bool) for stack in stacks]
        return cls(joined(dims), joined(channels), present(spec))

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
    stacks = stacks_of(spec)
    most = {
        "heads": [stack.heads for stack in stacks], "dims": [stack.head_dim for stack in stacks],
        "channels": [stack.channels for stack in stacks], "blocks": [spec.depth],
    }  # fmt: skip
    for key, sizes in most.items():
        limit = min((size for size in sizes if size), default=1)  # of what there is
        if (asked := getattr(least, key)) is not None and asked > limit:
            if not any(sizes):
                raise UserError(f"budget.min_keep.{key}: {spec.name} has none; leave it out")
            where = f"{spec.name} has" if len(stacks) == 1 or key == "blocks" else f"a stage of {spec.name} has"
            raise UserError(f"budget.min_keep.{key}: {asked} is more than the {limit} that {where}")
