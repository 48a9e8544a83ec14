"""The norms of a network, all of one kind."""

from collections.abc import Callable
from functools import partial

from timm.layers import RmsNorm
from torch import nn

Norm = Callable[[int], nn.Module]  # of the width that is normalized
KINDS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "rms": RmsNorm}


def norm_of(kind: str, eps: float) -> Norm:
    """`layer` or `rms`, which has no bias."""
    return partial(KINDS[kind], eps=eps)
