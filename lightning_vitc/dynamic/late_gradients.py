"""Gates decide branch by branch, and learn all at once.

A branch needs its gate's decision before the next one can be entered, and in the backward pass the gradient of what the
gate saw; these are a few operators each. The derivatives of all gates by what they saw, and then the gradients of all
their weights, are taken in one pass over all branches. The result is what autograd would find gate by gate.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_vitc.dynamic.gate_stack import GateStack


class Deciding:
    """The gates of all branches in one forward pass, asked in their order.

    Args:
        gates: of U branches.
        weights: `gates.mixed(...)`, differentiable.
    """

    def __init__(self, gates: GateStack, weights: Mapping[str, Tensor]):
        self._weights = weights
        self._seen = _Seen(gates, {name: weight.detach() for name, weight in weights.items()})
        self._shares: list[Tensor] = []

    def margin(self, pooled: Tensor) -> Tensor:
        """[B], of the gate whose turn it is, for mean tokens [B, D]; see `GateStack.margins`."""
        seen, gate = self._seen, len(self._seen.tokens)
        if gate == 0:
            shape = len(seen.of_gate), len(pooled)
            self._shares = list(_Weights.apply(seen, shape, *self._weights.values()).unbind())
        # Taken out, for what it leads to is not to be kept by what it is kept by.
        margin = _Margin.apply(seen, gate, pooled, self._shares.pop(0))
        if not self._shares and seen.gates.training:
            seen.gates.note(seen.pooled)
        return margin


class _Seen:
    """What the gates saw, and the derivatives by it and by their weights."""

    def __init__(self, gates: GateStack, weights: dict[str, Tensor]):
        self.gates, self.weights = gates, weights
        pieces = zip(*(weight.split(1) for weight in weights.values()), strict=True)
        self.of_gate = [dict(zip(weights, of_one, strict=True)) for of_one in pieces]
        self.tokens: list[Tensor] = []

    @cached_property
    def pooled(self) -> Tensor:
        """[U, B, D]."""
        return torch.stack(self.tokens)

    @cached_property
    def slopes(self) -> Tensor:
        """Of the margins by the mean tokens, [U, B, D]: no image has a part in the margin of another."""
        pooled = self.pooled.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(pooled.device.type, enabled=False):
            return torch.autograd.grad(self.gates.margins(self.weights, pooled).sum(), pooled)[0]

    def gradients(self, of_margins: Tensor) -> tuple[Tensor, ...]:
        """Of the weights, for gradients of all margins [U, B]."""
        weights = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        with torch.enable_grad(), torch.autocast(self.pooled.device.type, enabled=False):
            margins = self.gates.margins(weights, self.pooled)
            return torch.autograd.grad(margins, list(weights.values()), of_margins)


class _Weights(torch.autograd.Function):
    """Stands for the weights; the gradients of all margins come together here, when the last gate has given its own."""

    @staticmethod
    def forward(ctx: Any, seen: _Seen, shape: tuple[int, int], *weights: Tensor) -> Tensor:
        ctx.seen = seen
        return weights[0].new_zeros(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_margins: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.seen.gradients(of_margins)


class _Margin(torch.autograd.Function):
    """The margin of one gate. Its last argument, a row of `_Weights`, is there for the gradient that it is given."""

    @staticmethod
    def forward(ctx: Any, seen: _Seen, gate: int, pooled: Tensor, _: Tensor) -> Tensor:
        ctx.seen, ctx.gate = seen, gate
        seen.tokens.append(pooled.detach())
        return seen.gates.margins(seen.of_gate[gate], pooled[None]).squeeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_margin: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, of_margin[:, None] * ctx.seen.slopes[ctx.gate], of_margin
