"""Activation checkpointing (Chen et al., 2016): activations are computed again in the backward pass, not kept."""

from collections.abc import Callable
from itertools import count
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


class _Call(nn.Module):
    """A function and the module whose weights it uses, so that these can be given to it."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *args: Any) -> Tensor:
        return self.function(*args)


def recomputed(module: nn.Module, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """`function(*args)`; of what it computes nothing is kept but what it returns.

    Random numbers (dropout, stochastic depth) are the same the second time. So are the weights: a sub-network has its
    own only while it runs, therefore those of now are handed to the second pass.

    Args:
        module: whose weights the function uses. Its buffers change in the first pass alone: running statistics count
            every batch once.
        function: must have no effect but its result and on buffers, for it runs twice.
        args: of the function.
    """
    weights, buffers = ({f"module.{name}": tensor for name, tensor in named}
                        for named in (module.named_parameters(), module.named_buffers()))  # fmt: skip
    call, passes = _Call(module, function), count()

    def run(*given: Any) -> Tensor:
        own = buffers if next(passes) == 0 else {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(call, weights | own, given)

    return checkpoint(run, *args, use_reentrant=False)
