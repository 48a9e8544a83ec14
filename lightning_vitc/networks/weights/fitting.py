"""A file of weights into a network that may see other images or know other classes."""

import math
from typing import Any

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models import adapt_input_conv
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.weights.files import read_weights
from lightning_vitc.networks.weights.formats import Weights, with_timms_names
from lightning_vitc.networks.weights.strict import load_strictly, must_have_its_names

TABLE = ".relative_position_bias_table"
SHOWN = 4  # names in a message


def load_pretrained(
    model: nn.Module, path: str, *, new_head: bool = False, antialias: bool = True,
    remedy: str = "; set model.new_head=true for a new one",
) -> None:  # fmt: skip
    """Load a file into a model of timm or of this library.

    Position embeddings of another grid are resampled, and the first convolution is adapted to other input channels, as
    timm does; any precision becomes the model's.

    Args:
        model: with newly drawn weights.
        path: of the file.
        new_head: keep the model's own classifier, whatever the file has.
        antialias: of the resampling, timm's default.
        remedy: what messages about classifiers end with.

    Raises:
        UserError: where a weight has no place, or a place no weight; the model is left as it is.
    """
    own = model.state_dict()
    weights = with_timms_names(read_weights(path), own.keys())
    if not weights.keys() & own.keys():
        starts = sorted({name.partition(".")[0] for name in weights})
        more = ", ..." if len(starts) > SHOWN else ""
        inside = [start for start in starts if own.keys() <= {name.removeprefix(f"{start}.") for name in weights}]
        remedy = f"; those under {' and under '.join(inside)} fit: save them alone" if inside else ""
        raise UserError(
            f"{path}: not a checkpoint of this model: its names begin with {', '.join(starts[:SHOWN])}{more}{remedy}"
        )
    weights = _with_classifier(weights, model, path, new_head, remedy)
    _must_be_of_its_size(weights, own, path)
    must_have_its_names(own, weights, path)
    weights = _for_channels(weights, model, path)
    weights = resampled(weights, model, path, antialias)
    load_strictly(model, weights, path)


def resampled(weights: Weights, model: Any, path: str, antialias: bool = True) -> Weights:
    """With position embeddings [1, N, D] and tables of biases of the model's grid, by timm's interpolation of squares.

    A family says by `grid_size` and `antialias_positions` what its grid is, and how its authors interpolate.

    Raises:
        UserError: for positions that are no square.
    """
    weights = weights | _tables(weights, model)
    own, given = getattr(model, "pos_embed", None), weights.get("pos_embed")
    if own is None or given is None or given.ndim != 3 or own.shape[1] == given.shape[1]:
        return weights
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    if side * side != given.shape[1] - prefix or not side:
        raise UserError(
            f"{path}: not a checkpoint of this model: pos_embed has {counted(given.shape[1], 'position')}, of which "
            f"{counted(prefix, 'is', 'are')} not of patches and the others no square; the model must see images of the "
            "same size, model.img_size"
        )
    grid = list(model.grid_size if hasattr(model, "grid_size") else model.patch_embed.grid_size)
    antialias = antialias and getattr(model, "antialias_positions", True)
    position = resample_abs_pos_embed(given, grid, [side, side], num_prefix_tokens=prefix, antialias=antialias)
    return weights | {"pos_embed": position}


def _tables(weights: Weights, model: nn.Module) -> Weights:
    """Those of biases for distances [rows, heads] that are of another window."""
    found = {}
    for name, own in model.state_dict().items():
        given = weights.get(name)
        if name.endswith(TABLE) and given is not None and given.ndim == own.ndim and len(given) != len(own):
            attn: Any = model.get_submodule(name.removesuffix(TABLE))
            window = getattr(attn, "window", None) or attn.window_size
            found[name] = resize_rel_pos_bias_table(given, window, tuple(own.shape))
    return found


def _with_classifier(weights: Weights, model: Any, path: str, new_head: bool, remedy: str) -> Weights:
    own = model.state_dict()
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    heads += ("head_dist.", "head_cls.") if "head." in heads else ()
    mine = {name: value for name, value in own.items() if name.startswith(heads)}
    if new_head:
        return {name: value for name, value in weights.items() if not name.startswith(heads)} | mine
    for name, value in mine.items():
        if not name.endswith("weight"):
            continue
        if not any(theirs.startswith(heads) for theirs in weights):
            raise UserError(f"{path}: it has no classifier{remedy}")
        if name in weights and weights[name].ndim == value.ndim and len(weights[name]) != len(value):
            classes = counted(len(weights[name]), "class")
            raise UserError(f"{path}: its classifier is for {classes}, the model's for {len(value)}{remedy}")
    return weights


def _for_channels(weights: Weights, model: Any, path: str) -> Weights:
    first = getattr(model, "first_conv", (getattr(model, "pretrained_cfg", None) or {}).get("first_conv"))
    first = first or "patch_embed.proj"
    own, given = (values.get(f"{first}.weight") for values in (model.state_dict(), weights))
    if own is None or given is None or given.ndim != 4 or own.shape[1] == given.shape[1]:
        return weights
    if given.shape[1] != 3:
        raise UserError(
            f"{path}: not a checkpoint of this model: {first} sees {counted(given.shape[1], 'channel')}, and only "
            f"those of RGB are adapted to others; set model.in_chans={given.shape[1]}"
        )
    return weights | {f"{first}.weight": adapt_input_conv(own.shape[1], given)}


def _must_be_of_its_size(weights: Weights, own: dict[str, Tensor], path: str) -> None:
    """Refuse another architecture by the key of `model` that it differs in."""
    depth, mine = (_depth(names) for names in (weights, own))
    found: list[tuple[str, int, int]] = [("depth", depth, mine)] if depth and mine else []
    kernel, here = (values.get("patch_embed.proj.weight") for values in (weights, own))
    if kernel is not None and here is not None and kernel.ndim == here.ndim == 4:
        found = [("embed_dim", len(kernel), len(here)), ("patch_size", kernel.shape[-1], here.shape[-1]), *found]
    for key, theirs, ours in found:
        if theirs != ours:
            raise UserError(
                f"{path}: not a checkpoint of this model: its {key} is {theirs}, the model's is {ours}; "
                f"set model.{key}={theirs}, or model.name to the model it is of"
            )


def _depth(names: Any) -> int:
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")})
