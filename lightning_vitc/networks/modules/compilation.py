"""Compiled training: what of a network runs as a graph, made when it is first called.

Graphs are of functions, not of modules: weights and names of the state dict are what they were, and a copy of a network
never runs with the weights of the one it was copied from.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

Compile = bool | Literal["blocks", "whole"]  # false, or what is a graph
GRAPHS = 512  # of one function: Scala's widths, blocks cut differently, a smaller last batch; torch would stop at 8


@cache
def graph_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function: one graph without breaks for every shape, random numbers as without compiling.

    Args:
        function: of a class or a module. One that is made anew for every call would be kept for every call.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, GRAPHS)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, GRAPHS)
    return torch.compile(function, fullgraph=True, dynamic=False, options={"fallback_random": True})


def compiles(wanted: bool) -> bool:
    """Whether what is called now is a graph: where something is trained, for validation is run as it is written."""
    return wanted and torch.is_grad_enabled()


def method_of(owner: Any, function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """A method, as a graph where that is asked for and something is trained."""
    return partial(graph_of(function) if compiles(compiled) else function, owner)


class Compilable:
    """A timm model that can be trained by graphs.

    Attributes:
        compiled: what is a graph: nothing (`False`), each of the `blocks`, or the `whole` up to the final norm.
    """

    compiled: Compile = False
    blocks: Any

    def set_compiled(self, how: Compile) -> None:
        """Train by graphs, or without, from now on."""
        self.compiled = how
        for block in self.blocks:
            block.compiled = how == "blocks"

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the last norm gives; arguments as in timm."""
        upstream = super(Compilable, type(self)).forward_features  # type: ignore[misc]
        return method_of(self, upstream, self.compiled == "whole")(x, *args, **kwargs)
