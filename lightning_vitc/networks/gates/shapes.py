"""The gate networks by name, and what each costs; without torch, so that they can be counted where none is.

The paper (USDC, Yuan et al., 2023) searches among seven networks of different depth, normalization and activation
and lists none of them. These seven are ours: D -> D/4 -> (D/4 ->) 2, D the embedding width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class GateShape:
    """Linear layers with `norm` and `activation` between them."""

    layers: int
    activation: Literal["relu", "gelu"] | None = None
    norm: Literal["layer", "batch"] | None = None

    def widths(self, dim: int) -> list[int]:
        """Of the input, the hidden layers and the output, which are the logits of skipping and of running."""
        return [dim, *[max(dim // 4, 1)] * (self.layers - 1), 2]


GATES: dict[str, GateShape] = {
    "linear": GateShape(1),
    "relu": GateShape(2, "relu"),
    "gelu": GateShape(2, "gelu"),
    "relu_ln": GateShape(2, "relu", "layer"),
    "gelu_ln": GateShape(2, "gelu", "layer"),
    "relu_bn": GateShape(2, "relu", "batch"),
    "gelu_ln_3": GateShape(3, "gelu", "layer"),
}


def gate_macs(name: str, dim: int) -> int:
    """Multiply-accumulates of one decision; the mean over tokens and the norms count zero, as everywhere."""
    return sum(one * other for one, other in pairwise(GATES[name].widths(dim)))


def gate_params(name: str, dim: int) -> int:
    """Parameters of a gate network; the running statistics of a batch norm are no parameters."""
    shape = GATES[name]
    widths = shape.widths(dim)
    norms = 2 * sum(widths[1:-1]) if shape.norm else 0
    return gate_macs(name, dim) + sum(widths[1:]) + norms


def gate_axes(prefix: str, name: str | None) -> dict[str, tuple[None, ...]]:
    """The names of a gate's weights and buffers, none of which is ever cut."""
    if name is None:
        return {}
    found: dict[str, tuple[None, ...]] = {}
    shape, at = GATES[name], 0
    for number in range(1, shape.layers + 1):
        found |= {f"{prefix}.layers.{at}.weight": (None, None), f"{prefix}.layers.{at}.bias": (None,)}
        if number < shape.layers and shape.norm:
            at += 1
            names = ("weight", "bias", *(("running_mean", "running_var") if shape.norm == "batch" else ()))
            found |= {f"{prefix}.layers.{at}.{part}": (None,) for part in names}
        at += 2  # behind the activation
    return found
