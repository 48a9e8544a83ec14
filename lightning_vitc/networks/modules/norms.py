"""The norms of a network, all of one kind."""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers import RmsNorm
from torch import nn

Norm = Callable[[int], Any]  # of the width that is normalized, a layer
KINDS: dict[str, Any] = {"layer": nn.LayerNorm, "rms": RmsNorm}


def norm_of(kind: str, eps: float) -> Norm:
    """`layer` or `rms`, which has no bias."""
    return partial(KINDS[kind], eps=eps)
