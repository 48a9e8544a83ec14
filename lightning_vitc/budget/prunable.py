"""Pruning a network: the norms that decide, the masked weights, and what is left.

L blocks, H heads, d dimensions a head, F channels.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.stacks import joined, stack_of, stacks_of
from lightning_vitc.networks.axes import Inner
from lightning_vitc.networks.backbone import Backbone, BranchGate
from lightning_vitc.networks.blocks import ATTN, MLP, Block, Branch
from lightning_vitc.networks.branch_layouts import LAST_NORMS, OUTLETS
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.kept import Index, Kept
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.stacked import stacked


@torch.no_grad()
def energies(network: Backbone) -> tuple[Tensor, Tensor]:
    """Squared norms of the columns of `attn.proj` [L, H, d] and of `mlp.fc2` [L, F] of a dense network."""
    dims, channels = [], []
    for stack, weights in zip(stacks_of(network.spec), outlets(network), strict=True):
        proj, fc2 = (_norms(stacked(of_kind)).square() if of_kind else None for of_kind in weights)
        none = torch.zeros(len(stack), 0, 0, device=next(network.parameters()).device)
        dims.append(none if proj is None else proj.unflatten(1, (stack.heads, -1)))
        channels.append(none.flatten(1) if fc2 is None else fc2)
    return joined(dims), joined(channels)


def outlets(network: Backbone) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The weights whose columns are pruned, block by block of each stack: such as of `attn.proj` and of `mlp.fc2`."""
    blocks: list[Any] = list(network.blocks)
    return [
        (_weights(blocks[stack.rows], stack.attn), _weights(blocks[stack.rows], stack.channels and stack.mlp))
        for stack in stacks_of(network.spec)
    ]


def _weights(blocks: list[Any], branch: Branch | int | None) -> list[Tensor]:
    return (
        [] if not isinstance(branch, Branch) else [block.get_submodule(OUTLETS[branch.kind]).weight for block in blocks]
    )


def _norms(weights: Tensor) -> Tensor:
    """Of the columns of some matrices [n, rows, columns], or of kernels with the columns there."""
    return torch.linalg.vector_norm(weights, dim=(1, *range(3, weights.ndim)))


def pruned_spec(spec: ArchSpec, masks: Masks) -> ArchSpec:
    """The architecture that is left; a block without branches is gone, unless it still does something."""
    blocks, stay, stacks = [], stay_without_branches(spec), stacks_of(spec)
    for number, (block, dims, channels, (run_attn, run_mlp)) in enumerate(zip(
        spec.blocks, masks.dims.sum(-1).tolist(), masks.channels.sum(-1).tolist(), masks.branches.tolist(), strict=True
    )):  # fmt: skip
        attn, mlp = block.branches
        assert mlp is not None
        values = [count for count in dims if count]
        left = replace(attn, pieces=tuple(values)) if attn and run_attn and values else None
        pieces = (channels,) if stack_of(stacks, number).channels else mlp.pieces
        narrow = replace(mlp, pieces=pieces) if run_mlp else None
        blocks.append(Block((left, narrow)) if run_attn or run_mlp or stay[number] else None)
    return spec.with_blocks(blocks)


def stay_without_branches(spec: ArchSpec) -> list[bool]:
    """Which blocks still do something without branches, such as UniFormer's positions."""
    return [bool(names) for names in shape_of(spec).layout(spec.without_branches()).blocks]


def kept_of(spec: ArchSpec, masks: Masks) -> Kept:
    """Where the weights that are left are in the dense network."""
    stacks, stay = stacks_of(spec), stay_without_branches(spec)
    indices: dict[str | Inner, Index] = {}
    for number, (run_attn, run_mlp) in enumerate(masks.branches.tolist()):
        stack = stack_of(stacks, number)
        if stack.attn and run_attn and masks.dims[number].any():
            found = _first_kept(stack.attn, stack.of_dims(masks.dims)[number - stack.start])
            indices |= {Inner(number, ATTN, what): index for what, index in found.items()}
        if run_mlp and stack.channels:
            indices[Inner(number, MLP, "pieces")] = masks.channels[number].nonzero().flatten()
    sources = tuple(number for number, run in enumerate(masks.branches.any(-1).tolist()) if run or stay[number])
    return Kept.of(spec, pruned_spec(spec, masks), indices, sources)


def _first_kept(attn: Branch, dims: Tensor) -> dict[str, Index]:
    """Rows of q and k of the heads that are left, rows of v and columns of proj of their dimensions; or channels."""
    values = dims.flatten().nonzero().flatten()
    if not attn.query:
        return {"pieces": values}
    alive = dims.any(-1)
    heads = alive[:, None].expand_as(dims).flatten().nonzero().flatten()
    rows = torch.cat([heads, attn.query_width + heads, 2 * attn.query_width + values])
    return {"qkv": rows, "values": values, "heads": alive.nonzero().flatten()}


def masked_weights(network: Backbone, masks: Masks) -> dict[str, Tensor]:
    """The dense network's weights with the pruned columns of `attn.proj`, `mlp.fc2` and the like, or all of them, zero.

    Running them gives the logits of the compacted network: what feeds a zero column does not matter, but to a norm
    inside of a branch (see `masked`).
    """
    weights, spec, shape = dict(network.named_parameters()), network.spec, shape_of(network.spec)
    changed: dict[str, Tensor] = dict(weights)
    stacks = stacks_of(spec)
    for number, (run_attn, run_mlp) in enumerate(masks.branches.tolist()):
        stack = stack_of(stacks, number)
        for branch, columns, run in (
            (stack.attn, stack.of_dims(masks.dims)[number - stack.start].flatten(), run_attn),
            (stack.mlp, stack.of_channels(masks.channels)[number - stack.start], run_mlp),
        ):
            if branch is None or not len(columns):
                continue
            block = shape.block_prefix(*spec.place(number))
            name = block + OUTLETS[branch.kind]
            weight = weights[f"{name}.weight"]
            kernel = (1,) * (weight.ndim - 2)
            changed[f"{name}.weight"] = weight * (columns.to(weight.device) & run).view(-1, *kernel)
            if (bias := weights.get(f"{name}.bias")) is not None and not run:
                changed[f"{name}.bias"] = torch.zeros_like(bias)
            if (norm := LAST_NORMS.get(branch.kind)) and not run:  # which would not leave zeros as they are
                ends = (f"{block}{norm}.weight", f"{block}{norm}.bias")
                changed |= {end: torch.zeros_like(weights[end]) for end in ends}
    return changed


def masked(network: Backbone, masks: Masks) -> Callable[..., Tensor]:
    """The network that is left, run by its weights of now in the dense one: logits of `(images, gates=None)`.

    Norms inside of branches would see what is masked; there the sub-network itself is run.
    """
    if network.spec.has_inner_norms:
        return partial(network, kept=kept_of(network.spec, masks))
    weights = masked_weights(network, masks)

    def forward(images: Tensor, gates: BranchGate | None = None) -> Tensor:
        return functional_call(network, weights, (images,), {} if gates is None else {"gates": gates})

    return forward
