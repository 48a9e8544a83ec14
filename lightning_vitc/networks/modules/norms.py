"""The norms of a network, all of one kind."""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers import RmsNorm
from torch import nn

Norm = Callable[[int], Any]  # of the width that is normalized, a layer
KINDS: dict[str, Any] = {"layer": nn.LayerNorm, "rms": RmsNorm}


def set_eps(model: nn.Module, eps: float) -> int:
    """The epsilon of every such norm of a model from now on; how many there are."""
    norms = [module for module in model.modules() if isinstance(module, tuple(KINDS.values()))]
    for norm in norms:
        norm.eps = eps  # type: ignore[assignment]
    return len(norms)


def norm_of(kind: str, eps: float) -> Norm:
    """`layer` or `rms`, which has no bias."""
    return partial(KINDS[kind], eps=eps)
