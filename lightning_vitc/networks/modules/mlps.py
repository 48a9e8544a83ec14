"""timm's MLPs, of any number of hidden units, none included."""

from timm.layers import GluMlp, Mlp, SwiGLU, get_act_layer
from torch import nn

from lightning_vitc.networks.modules.norms import Norm


def mlp_of(
    width: int, hidden: int, act: str, *, bias: bool = True, drop: float = 0.0, kind: str = "mlp",
    norm: Norm | None = None, split: bool = False,
) -> nn.Module:  # fmt: skip
    """[B, ..., D] -> [B, ..., D].

    Args:
        width: D.
        hidden: units.
        act: a name that timm knows; of a gated MLP, for the gates.
        bias: of all layers.
        drop: rate of dropout.
        kind: of a branch: `mlp`, or `glu`, whose hidden units are gated by as many others.
        norm: of the hidden units, none by default.
        split: gates have a layer of their own.
    """
    more = {"act_layer": get_act_layer(act), "bias": bias, "drop": drop, "norm_layer": norm if hidden else None}
    if kind != "glu":
        layers: nn.Module = Mlp(width, hidden or 1, width, **more)  # type: ignore[arg-type]
    elif split:
        layers = SwiGLU(width, hidden or 1, width, **more)  # type: ignore[arg-type]
    else:
        layers = GluMlp(width, 2 * (hidden or 1), width, gate_last=False, **more)  # type: ignore[arg-type]
    return layers if hidden else _emptied(layers, width, bias)


def _emptied(layers: nn.Module, width: int, bias: bool) -> nn.Module:
    """timm reads 0 hidden units as "not given"."""
    for name, _ in list(layers.named_children()):
        if name.startswith("fc1"):
            setattr(layers, name, nn.Linear(width, 0, bias=bias))
    layers.fc2 = nn.Linear(0, width, bias=bias)
    return layers
