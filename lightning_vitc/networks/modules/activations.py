"""Names of activations, as timm's `get_act_layer` knows them."""

from typing import Any

from timm.layers import get_act_layer
from torch import nn

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}


def act_name(act: Any) -> str:
    """The name of an activation's module; empty for one that is not supported."""
    if getattr(act, "approximate", "none") == "tanh":  # nn.GELU
        return "gelu_tanh"
    return ACTIVATIONS.get(type(act).__name__, "")


def set_act(model: nn.Module, name: str) -> int:
    """The activation of every MLP of a model from now on; how many there are."""
    mlps: list[Any] = [
        module for path, module in model.named_modules() if path.endswith("mlp") and hasattr(module, "act")
    ]
    for mlp in mlps:
        mlp.act = get_act_layer(name)()  # type: ignore[misc]
    return len(mlps)
