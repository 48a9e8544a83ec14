"""Names of activations, as timm's `get_act_layer` knows them."""

from typing import Any

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}


def act_name(act: Any) -> str:
    """The name of an activation's module; empty for one that is not supported."""
    if getattr(act, "approximate", "none") == "tanh":  # nn.GELU
        return "gelu_tanh"
    return ACTIVATIONS.get(type(act).__name__, "")
