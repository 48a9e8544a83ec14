"""The blocks of a plain Vision Transformer: attention and MLP with gates, under timm's names.

timm's blocks cannot carry an attention scale of another width, value widths that differ from head to head,
or a block without attention. These can.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp, get_act_layer
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.skipping import Mode, pooled, skipping
from lightning_vitc.networks.modules.compilation import compiles, method_of
from lightning_vitc.networks.modules.recomputation import recomputed
from lightning_vitc.networks.spec import ArchSpec

Decision = Callable[[int, Tensor], Tensor]
Gates = tuple[Tensor, ...] | Decision
Drawn = tuple[Tensor, ...]  # of both branches, what multiplies the images, [B, 1, 1]


class Attention(nn.Module):
    """Multi-head self-attention [B, N, D] -> [B, N, D] with a value width for every head."""

    pad: Tensor | None
    valid: Tensor | None

    def __init__(self, spec: ArchSpec, attn: Branch, attn_drop: float = 0.0, proj_drop: float = 0.0):
        super().__init__()
        options, dim = spec.options, spec.embed_dim
        self.num_heads, self.head_dim, self.value_dims = attn.groups, attn.query, attn.pieces
        self.scale = options.scale
        self.qkv = nn.Linear(dim, 2 * attn.query_width + attn.width, bias=options.qkv_bias)
        self.q_norm = nn.LayerNorm(attn.query, eps=options.norm_eps) if options.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(attn.query, eps=options.norm_eps) if options.qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(attn.width, dim, bias=options.proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        self.padded_dim = attn.padded  # padding costs less than doing without fused kernels
        pad, valid = _padding_indices(attn.pieces, self.padded_dim)
        self.register_buffer("pad", pad, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; `attn_mask` and `is_causal` as in timm."""
        heads, qk_dim = self.num_heads, self.num_heads * self.head_dim
        q, k, v = self.qkv(x).split([qk_dim, qk_dim, sum(self.value_dims)], dim=-1)
        q = self.q_norm(q.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)  # [B, H, N, head_dim]
        k = self.k_norm(k.unflatten(-1, (heads, self.head_dim))).transpose(1, 2)
        if self.pad is not None:
            v = F.pad(v, (0, 1)).index_select(-1, self.pad)
        v = v.unflatten(-1, (heads, self.padded_dim)).transpose(1, 2)
        drop = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask, drop, is_causal, scale=self.scale)
        x = x.transpose(1, 2).flatten(2)  # [B, N, H * value_dim]
        if self.valid is not None:
            x = x.index_select(-1, self.valid)
        return self.proj_drop(self.proj(x))


class Block(nn.Module):
    """Pre-norm encoder block; a branch its BlockSpec lacks has no parameters here.

    A branch with a gate (`gate1`, `gate2`) is skipped where the gate says so, in the way that `gating` names. With
    `grad_checkpointing` a training keeps what enters the block and computes the rest again; where gates decide by the
    image, what enters each branch.
    """

    grad_checkpointing = False
    compiled = False  # in training, see `compilation`

    def __init__(self, spec: ArchSpec, block: BlockSpec, proj_drop: float = 0.0, attn_drop: float = 0.0,
                 drop_path: float = 0.0):  # fmt: skip
        super().__init__()
        self.norm1: Any = None
        self.attn: Any = None
        self.ls1: Any = None
        self.drop_path1: Any = None
        self.norm2: Any = None
        self.mlp: Any = None
        self.ls2: Any = None
        self.drop_path2: Any = None
        self.gating: Mode = "per_sample"
        attn, mlp = block.branches
        self.gate1, self.gate2 = (
            None if branch is None or branch.gate is None else GateNetwork(branch.gate, spec.embed_dim)
            for branch in block
        )
        if attn is not None:
            self.norm1, self.ls1, self.drop_path1 = _frame(spec, drop_path)
            self.attn = Attention(spec, attn, attn_drop, proj_drop)
        if mlp is not None:
            self.norm2, self.ls2, self.drop_path2 = _frame(spec, drop_path)
            self.mlp = _mlp(spec, mlp.width, proj_drop)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, gates: Gates | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N, D].

        Args:
            x: tokens.
            attn_mask, is_causal: as in timm.
            gates: weighs what attention (0) and MLP (1) add, instead of the block's own gates: two scalars, or a
                function of that number and of the mean normalized token [B, D] that gives [B].
        """
        decides = callable(gates) or self.gate1 is not None or self.gate2 is not None  # which is to happen once
        run = self._method(Block._run, not decides)
        arguments = x, attn_mask, is_causal, gates, None if decides else self._drawn(x)
        return recomputed(self, run, *arguments) if self._recomputes() and not decides else run(*arguments)

    def _run(
        self, x: Tensor, attn_mask: Tensor | None, is_causal: bool, gates: Gates | None, drawn: Drawn | None
    ) -> Tensor:
        if self.attn is not None:
            x = self._add(x, 0, Block._attend, gates, drawn, attn_mask=attn_mask, is_causal=is_causal)
        if self.mlp is not None:
            x = self._add(x, 1, Block._feed, gates, drawn)
        return x

    def _add(
        self, x: Tensor, number: int, function: Callable[..., Tensor], gates: Gates | None, drawn: Drawn | None,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        if callable(gates):
            return self._decided(x, number, partial(self._method(function), **options), gates)

        def branch(normed: Tensor) -> Tensor:
            added = function(self, normed, **options)
            return self._drop(number, added) if drawn is None else drawn[number] * added

        gate, normed = self.gate2 if number else self.gate1, self._norm(number, x)
        if gates is None and gate is not None:
            return skipping(x, normed, gate, branch, self.gating)
        return x + (branch(normed) if gates is None else gates[number] * branch(normed))

    def _decided(self, x: Tensor, number: int, branch: Callable[[Tensor], Tensor], gates: Decision) -> Tensor:
        """What decides is no part of a graph: it is another one's business, and differs from block to block."""
        normed, seen = self._method(Block._see)(number, x)
        weight = gates(number, seen)[:, None, None]
        added = recomputed(self, branch, normed) if self._recomputes() else branch(normed)
        return x + weight * self._drop(number, added)

    def _see(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a branch and its gate get."""
        normed = self._norm(number, x)
        return normed, pooled(normed)

    def _norm(self, number: int, x: Tensor) -> Tensor:
        return self.norm2(x) if number else self.norm1(x)

    def _attend(self, normed: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        return self.ls1(self.attn(normed, attn_mask=attn_mask, is_causal=is_causal))

    def _feed(self, normed: Tensor) -> Tensor:
        return self.ls2(self.mlp(normed))

    def _drop(self, number: int, added: Tensor) -> Tensor:
        return self.drop_path2(added) if number else self.drop_path1(added)

    def _drawn(self, x: Tensor) -> Drawn | None:
        """Stochastic depth for a graph, which would have a rate as a constant: each block has another one."""
        if not compiles(self.compiled) or not isinstance(self.drop_path2 or self.drop_path1, DropPath):
            return None
        ones = x.new_ones(len(x), 1, 1)
        return tuple(ones if drop is None else drop(ones) for drop in (self.drop_path1, self.drop_path2))

    def _method(self, function: Callable[..., Any], compiled: bool = True) -> Callable[..., Any]:
        return method_of(self, function, self.compiled and compiled)

    def _recomputes(self) -> bool:
        return self.grad_checkpointing and torch.is_grad_enabled()


def _mlp(spec: ArchSpec, hidden: int, drop: float) -> Mlp:
    dim, bias = spec.embed_dim, spec.options.proj_bias
    layers = Mlp(dim, hidden, dim, get_act_layer(spec.options.act), bias=bias, drop=drop)
    if hidden == 0:  # timm reads 0 as "not given"
        layers.fc1, layers.fc2 = nn.Linear(dim, 0, bias=bias), nn.Linear(0, dim, bias=bias)
    return layers


def _frame(spec: ArchSpec, drop_path: float) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        nn.LayerNorm(spec.embed_dim, eps=spec.options.norm_eps),
        LayerScale(spec.embed_dim) if spec.options.layer_scale else nn.Identity(),
        DropPath(drop_path) if drop_path > 0 else nn.Identity(),
    )


def _padding_indices(dims: tuple[int, ...], width: int) -> tuple[Tensor | None, Tensor | None]:
    """Where each column of heads of `width` comes from (the last one is zero), and which of them are real."""
    total = sum(dims)
    if width * len(dims) == total:
        return None, None
    live = torch.arange(width, device="cpu") < torch.tensor(dims, device="cpu")[:, None]  # [H, width]
    pad = torch.full(live.shape, total, device="cpu")
    pad[live] = torch.arange(total, device="cpu")
    return pad.flatten(), live.flatten().nonzero().flatten()
