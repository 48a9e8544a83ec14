"""What blocks of an attention and an MLP have in common: branches that may be gone, gated, computed again, compiled.

timm's blocks cannot be without attention, nor skip a branch by the image. These can.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from lightning_vitc.networks.blocks import Block as BlockSpec
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.skipping import Mode, by_image, pooled, skipping
from lightning_vitc.networks.modules.compilation import compiles, method_of
from lightning_vitc.networks.modules.mlps import mlp_of as mlp_of
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.modules.recomputation import recomputed

Decision = Callable[[int, Tensor], Tensor]
Gates = tuple[Tensor, ...] | Decision
Drawn = tuple[Tensor, ...]  # of both branches, what multiplies the images, [B, 1, ..., 1]


class Block(nn.Module):
    """Pre-norm block [B, ..., D] -> [B, ..., D]; a branch its BlockSpec lacks has no parameters here.

    A family makes `norm1`, `attn`, `ls1`, `drop_path1` and `norm2`, `mlp`, `ls2`, `drop_path2` of the branches there
    are. A branch with a gate (`gate1`, `gate2`) is skipped where the gate says so, in the way that `gating` names. With
    `grad_checkpointing` a training keeps what enters the block and computes the rest again; where gates decide by the
    image, what enters each branch.

    Args:
        block: its branches.
        width: D, of the stream.
    """

    grad_checkpointing = False
    compiled = False  # in training, see `compilation`
    keeps_stream = True  # so that what it does can be weighed against its input

    def __init__(self, block: BlockSpec, width: int):
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
        self.gate1, self.gate2 = (
            None if branch is None or branch.gate is None else GateNetwork(branch.gate, width) for branch in block
        )

    def forward(self, x: Tensor, gates: Gates | None = None, **context: Any) -> Tensor:
        """[B, ..., D] -> [B, ..., D].

        Args:
            x: the stream.
            gates: weighs what attention (0) and MLP (1) add, instead of the block's own gates: two scalars, or a
                function of that number and of the mean normalized token [B, D] that gives [B].
            context: what the attention is told beside.
        """
        decides = callable(gates) or self.gate1 is not None or self.gate2 is not None  # which is to happen once
        run = self._method(Block._run, not decides)
        arguments = x, gates, None if decides else self._drawn(x), context
        return recomputed(self, run, *arguments) if self._recomputes() and not decides else run(*arguments)

    def entered(self, x: Tensor) -> Tensor:
        """The stream that the branches add to: what enters, or that and what no gate skips."""
        return x

    def _run(self, x: Tensor, gates: Gates | None, drawn: Drawn | None, context: dict[str, Any]) -> Tensor:
        x = self.entered(x)
        if self.attn is not None:
            x = self._add(x, 0, type(self)._attend, gates, drawn, **context)
        if self.mlp is not None:
            x = self._add(x, 1, type(self)._feed, gates, drawn)
        return x

    def _add(
        self, x: Tensor, number: int, function: Callable[..., Tensor], gates: Gates | None, drawn: Drawn | None,
        **context: Any,
    ) -> Tensor:  # fmt: skip
        if callable(gates):
            return self._decided(x, number, partial(self._method(function), **context), gates)

        def branch(normed: Tensor) -> Tensor:
            added = function(self, normed, **context)
            return self._drop(number, added) if drawn is None else drawn[number] * added

        gate, normed = self.gate2 if number else self.gate1, self._norm(number, x)
        if gates is None and gate is not None:
            return skipping(x, normed, gate(pooled(normed)), branch, self.gating)
        return x + (branch(normed) if gates is None else gates[number] * branch(normed))

    def _decided(self, x: Tensor, number: int, branch: Callable[[Tensor], Tensor], gates: Decision) -> Tensor:
        """What decides is no part of a graph: it is another one's business, and differs from block to block."""
        normed, seen = self._method(Block._see)(number, x)
        weight = by_image(gates(number, seen), x)
        added = recomputed(self, branch, normed) if self._recomputes() else branch(normed)
        return x + weight * self._drop(number, added)

    def _see(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a branch and its gate get."""
        normed = self._norm(number, x)
        return normed, pooled(normed)

    def _norm(self, number: int, x: Tensor) -> Tensor:
        return self.norm2(x) if number else self.norm1(x)

    def _attend(self, normed: Tensor, **context: Any) -> Tensor:
        return self.ls1(self.attn(normed, **context))

    def _feed(self, normed: Tensor) -> Tensor:
        return self.ls2(self.mlp(normed))

    def gains(self, number: int) -> Tensor | None:
        """Of what a branch adds, [D] (LayerScale), where there are any."""
        return getattr(self.ls2 if number else self.ls1, "gamma", None)

    def _drop(self, number: int, added: Tensor) -> Tensor:
        return self.drop_path2(added) if number else self.drop_path1(added)

    def _drawn(self, x: Tensor) -> Drawn | None:
        """Stochastic depth for a graph, which would have a rate as a constant: each block has another one."""
        if not compiles(self.compiled) or not isinstance(self.drop_path2 or self.drop_path1, DropPath):
            return None
        ones = by_image(x.new_ones(len(x)), x)
        return tuple(ones if drop is None else drop(ones) for drop in (self.drop_path1, self.drop_path2))

    def _method(self, function: Callable[..., Any], compiled: bool = True) -> Callable[..., Any]:
        return method_of(self, function, self.compiled and compiled)

    def _recomputes(self) -> bool:
        return self.grad_checkpointing and torch.is_grad_enabled()


def frame_of(
    width: int, eps: float, layer_scale: bool, drop_path: float, kind: str = "layer"
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """What stands around a branch: its norm, its gains and its stochastic depth."""
    return (
        norm_of(kind, eps)(width),
        LayerScale(width) if layer_scale else nn.Identity(),
        DropPath(drop_path) if drop_path > 0 else nn.Identity(),
    )


def drops_of(rates: Mapping[str, float], depth: int, drop_path: float = 0.0) -> list[dict[str, float]]:
    """Of each block its rates of dropping; stochastic depth rises from block to block, as in timm.

    Args:
        rates: timm's `drop_path_rate`, `proj_drop_rate`, `attn_drop_rate`; those that are missing are 0.
        depth: blocks.
        drop_path: the rate of stochastic depth, where it is missing.
    """
    rising = torch.linspace(0, rates.get("drop_path_rate", drop_path), depth, device="cpu").tolist()
    same = {"proj_drop": rates.get("proj_drop_rate", 0.0), "attn_drop": rates.get("attn_drop_rate", 0.0)}
    return [{"drop_path": rate, **same} for rate in rising]
