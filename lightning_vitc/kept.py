"""Which weights of a network a smaller one keeps, and how to pick them out.

`Kept` is what every method decides in the end: indices into the dense network's dimensions. Running a
sub-network during training and removing weights for good read the same indices.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.transfer import sent

Index = slice | Tensor  # a slice gives a view, a tensor of positions a copy
Heads = Literal["both", "distillation"]


@dataclass(frozen=True, eq=False)
class AttentionKept:
    """Rows of the packed qkv matrix, columns of proj, and the positions kept inside a head's qk-norm."""

    qkv: Index
    proj: Index
    head_dim: Index


@dataclass(frozen=True, eq=False)
class BlockKept:
    """What is kept of block `source`; a branch that is `None` is dropped."""

    source: int
    attn: AttentionKept | None
    hidden: Index | None


@dataclass(frozen=True, eq=False)
class Kept:
    """A sub-network: the architecture that remains and where its weights are in the dense one.

    With `heads="distillation"` it predicts by its distillation head alone, see `_without_class_head`.
    """

    spec: ArchSpec
    embed: Index
    blocks: tuple[BlockKept, ...]
    heads: Heads = "both"
    _on_device: dict[torch.device, "Kept"] = field(default_factory=dict, repr=False)
    kinds: dict[Any, Any] = field(default_factory=dict, repr=False)  # of `shared_weights`, found once

    def to(self, device: torch.device) -> "Kept":
        """The same with index tensors on `device`; copied there once."""
        if device not in self._on_device:
            blocks = tuple(_block_to(block, device) for block in self.blocks)
            self._on_device[device] = replace(self, embed=_to(self.embed, device), blocks=blocks, _on_device={})
        return self._on_device[device]


# The dimension that each axis of a parameter runs along: `None` is kept whole.
AXES: dict[str, tuple[str | None, ...]] = {
    "patch_embed.proj.weight": ("embed", None, None, None),
    "patch_embed.proj.bias": ("embed",),
    "cls_token": (None, None, "embed"),
    "dist_token": (None, None, "embed"),
    "reg_token": (None, None, "embed"),
    "pos_embed": (None, None, "embed"),
    "norm_pre.weight": ("embed",),
    "norm_pre.bias": ("embed",),
    "norm.weight": ("embed",),
    "norm.bias": ("embed",),
    "fc_norm.weight": ("embed",),
    "fc_norm.bias": ("embed",),
    "head.weight": (None, "embed"),
    "head.bias": (None,),
    "head_dist.weight": (None, "embed"),
    "head_dist.bias": (None,),
}
BLOCK_AXES: dict[str, tuple[str | None, ...]] = {
    "norm1.weight": ("embed",),
    "norm1.bias": ("embed",),
    "attn.qkv.weight": ("qkv", "embed"),
    "attn.qkv.bias": ("qkv",),
    "attn.q_norm.weight": ("head_dim",),
    "attn.q_norm.bias": ("head_dim",),
    "attn.k_norm.weight": ("head_dim",),
    "attn.k_norm.bias": ("head_dim",),
    "attn.proj.weight": ("embed", "proj"),
    "attn.proj.bias": ("embed",),
    "ls1.gamma": ("embed",),
    "norm2.weight": ("embed",),
    "norm2.bias": ("embed",),
    "mlp.fc1.weight": ("hidden", "embed"),
    "mlp.fc1.bias": ("hidden",),
    "mlp.fc2.weight": ("embed", "hidden"),
    "mlp.fc2.bias": ("embed",),
    "ls2.gamma": ("embed",),
}
ATTENTION_BRANCH, MLP_BRANCH = ("norm1", "attn", "ls1", "gate1"), ("norm2", "mlp", "ls2", "gate2")
GATES = ("gate1", "gate2")  # kept whole where their branch is


def gather(weights: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """The sub-network's weights by their names there; differentiable, views where the indices allow."""
    kept = kept.to(next(iter(weights.values())).device)
    targets = {block.source: position for position, block in enumerate(kept.blocks)}
    smaller = {}
    for name, weight in weights.items():
        source, part = part_of(name)
        if source is None:
            smaller[name] = _pick(weight, AXES[name], {"embed": kept.embed})
        elif source in targets and _has_branch(block := kept.blocks[targets[source]], part):
            axes = () if part.startswith(GATES) else BLOCK_AXES[part]
            smaller[f"blocks.{targets[source]}.{part}"] = _pick(weight, axes, indices_of(kept, block))
    return smaller if kept.heads == "both" else smaller | _without_class_head(smaller)


def part_of(name: str) -> tuple[int | None, str]:
    """The block of a weight and its name there; no block and its whole name elsewhere."""
    match = re.match(r"blocks\.(\d+)\.(.+)", name)
    return (None, name) if match is None else (int(match[1]), match[2])


def _without_class_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A class head of zeros and twice the distillation head: the average of both, exactly the latter's logits.

    So a network whose class head was never trained stays a plain distilled one, in every format.
    """
    return {
        name: weight * 2 if name.startswith("head_dist.") else torch.zeros_like(weight)
        for name, weight in weights.items()
        if name.startswith(("head.", "head_dist."))
    }


def _has_branch(block: BlockKept, part: str) -> bool:
    return (block.attn if part.startswith(ATTENTION_BRANCH) else block.hidden) is not None


def indices_of(kept: Kept, block: BlockKept) -> dict[str, Index]:
    """What is kept of a block's dimensions, by the names in `AXES`."""
    indices = {"embed": kept.embed}
    if block.attn is not None:
        indices |= {"qkv": block.attn.qkv, "proj": block.attn.proj, "head_dim": block.attn.head_dim}
    if block.hidden is not None:
        indices["hidden"] = block.hidden
    return indices


def _pick(weight: Tensor, axes: tuple[str | None, ...], indices: dict[str, Index]) -> Tensor:
    for dim, axis in enumerate(axes):
        index = None if axis is None else indices[axis]
        if isinstance(index, slice):
            weight = weight.narrow(dim, index.start, index.stop - index.start)
        elif index is not None:
            weight = weight.index_select(dim, index)
    return weight


def _to(index: Index, device: torch.device) -> Index:
    return index if isinstance(index, slice) else sent(index, device)


def _block_to(block: BlockKept, device: torch.device) -> BlockKept:
    attn, hidden = block.attn, block.hidden
    if attn is not None:
        attn = AttentionKept(_to(attn.qkv, device), _to(attn.proj, device), _to(attn.head_dim, device))
    return BlockKept(block.source, attn, None if hidden is None else _to(hidden, device))
