"""What `config.json` says beside weights of Hugging Face's transformers, and the weights do not."""

import json
from pathlib import Path
from typing import Any

from lightning_vitc.errors import UserError

FILE = "config.json"
EPSILON = ("layer_norm_eps", "rms_norm_eps")
ACTIVATIONS = {  # theirs, and timm's
    "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "quick_gelu": "quick_gelu",
    "relu": "relu", "silu": "silu",
}  # fmt: skip


def settings_beside(weights: str | Path) -> dict[str, Any]:
    """Those of the network that sees images; empty where there are none, or they are none of transformers'.

    Raises:
        UserError: where there is such a file, and it cannot be read.
    """
    place = Path(weights)
    file = (place if place.is_dir() else place.parent) / FILE
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({error}); it says what the weights beside it do not") from None
    if not isinstance(settings, dict) or "model_type" not in settings:
        return {}
    vision = settings.get("vision_config")
    return vision if isinstance(vision, dict) else settings


def keys_beside(weights: bool | str | Path | None) -> dict[str, Any]:
    """The keys of `model` that the settings beside a file of weights say: `norm_eps` and `act_layer`.

    Raises:
        UserError: where one of them is nothing that a network here has.
    """
    settings = settings_beside(weights) if isinstance(weights, str | Path) else {}
    eps = next((settings[key] for key in EPSILON if settings.get(key) is not None), None)
    if eps is not None and (isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1):
        raise UserError(f"{weights}: its {FILE} says {EPSILON[0]}: {eps!r}, which is no number between 0 and 1")
    act = settings.get("hidden_act")
    if act is None or settings.get("use_swiglu_ffn") or settings.get("use_gated_mlp"):
        return {} if eps is None else {"norm_eps": float(eps)}
    if act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{weights}: its {FILE} says hidden_act: {act!r}, which no network here has; they have {known}")
    return ({} if eps is None else {"norm_eps": float(eps)}) | {"act_layer": ACTIVATIONS[act]}


def must_say_the_same(settings: dict[str, Any], model: Any, source: str) -> None:
    """Refuse a network that has not the heads of the settings, which its weights do not show.

    Args:
        settings: as of `settings_beside`.
        model: of timm or of this library.
        source: of the weights, for messages.

    Raises:
        UserError: naming both.
    """
    heads = _heads_of(settings)
    ours = [module.num_heads for name, module in model.named_modules()
            if name.endswith("attn") and hasattr(module, "num_heads")]  # fmt: skip
    if heads is not None and ours and ours != heads:
        raise UserError(
            f"{source}: not a checkpoint of this model: its {FILE} says {_each(heads)} heads, the model has "
            f"{_each(ours)}; set model.num_heads to those, or model.name to the model it is of"
        )


def _each(heads: list[int]) -> str:
    return ", ".join(str(count) for count in dict.fromkeys(heads))


def _heads_of(settings: dict[str, Any]) -> list[int] | None:
    """Of every attention; `None` where nothing says it."""
    if isinstance(heads := settings.get("num_heads"), list) and isinstance(depths := settings.get("depths"), list):
        return [count for count, depth in zip(heads, depths, strict=False) for _ in range(depth)]
    count, depth = settings.get("num_attention_heads"), settings.get("num_hidden_layers")
    return [count] * depth if isinstance(count, int) and isinstance(depth, int) else None
