"""What of a uniform ViT is kept: heads, value dimensions, channels and branches.

Masks are boolean, `True` is kept. L blocks, H heads, d dimensions a head, F channels.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import ATTN as ATTN
from lightning_vitc.networks.blocks import MLP as MLP
from lightning_vitc.networks.blocks import Branch
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
            UserError: for a network whose blocks or heads differ.
        """
        attn, mlp = uniform(spec)
        shape = (spec.depth, attn.groups, attn.query)
        return cls(*(torch.ones(s, dtype=torch.bool) for s in (shape, (spec.depth, mlp.width), (spec.depth, 2))))

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


def uniform(spec: ArchSpec) -> tuple[Branch, Branch]:
    """Attention and MLP, without their gates, of a network whose blocks are all alike, as timm's are."""
    shapes = {tuple(branch and replace(branch, gate=None) for branch in block) for block in spec.blocks}
    attn, mlp = shapes.pop() if len(shapes) == 1 else (None, None)
    if attn is None or mlp is None:
        raise UserError(f"model.name: {spec.name} is already pruned; start from a dense model")
    return attn, mlp


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
    attn, mlp = uniform(spec)
    most = {"heads": attn.groups, "dims": attn.query, "channels": mlp.width, "blocks": spec.depth}
    for key, limit in most.items():
        if (asked := getattr(least, key)) is not None and asked > limit:
            raise UserError(f"budget.min_keep.{key}: {asked} is more than the {limit} that {spec.name} has")
