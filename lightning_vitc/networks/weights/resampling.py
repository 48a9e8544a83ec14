"""Positions and tables of biases of one image size in a network for another."""

import math
from typing import Any

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.weights.renaming import Weights

TABLE = ".relative_position_bias_table"


def resampled(weights: Weights, model: Any, source: str, antialias: bool = True) -> Weights:
    """With position embeddings [1, N, D] and tables of biases of the model's grid, by timm's interpolation of squares.

    A family says by `grid_size` and `antialias_positions` what its grid is, and how its authors interpolate.

    Raises:
        UserError: for positions or a table that are no square.
    """
    weights = weights | _tables(weights, model, source)
    own, given = getattr(model, "pos_embed", None), weights.get("pos_embed")
    if own is None or given is None or given.ndim != 3 or own.shape[1] == given.shape[1]:
        return weights
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    if side * side != given.shape[1] - prefix or not side:
        raise UserError(
            f"{source}: not a checkpoint of this model: pos_embed has {counted(given.shape[1], 'position')}, of which "
            f"{counted(prefix, 'is', 'are')} not of patches and the others no square; the model must see images of the "
            "same size, model.img_size"
        )
    grid = list(model.grid_size if hasattr(model, "grid_size") else model.patch_embed.grid_size)
    antialias = antialias and getattr(model, "antialias_positions", True)
    position = resample_abs_pos_embed(given, grid, [side, side], num_prefix_tokens=prefix, antialias=antialias)
    return weights | {"pos_embed": position}


def _tables(weights: Weights, model: nn.Module, source: str) -> Weights:
    """Those of biases for distances [rows, heads] that are of another window."""
    return {
        name: _table(name, weights[name], own, model, source)
        for name, own in model.state_dict().items()
        if name.endswith(TABLE) and name in weights and weights[name].ndim == own.ndim == 2
        and len(weights[name]) != len(own)
    }  # fmt: skip


def _table(name: str, given: Tensor, own: Tensor, model: nn.Module, source: str) -> Tensor:
    """One of them; the rows behind those of distances, BEiT's of its class token, stay as they are."""
    attn: Any = model.get_submodule(name.removesuffix(TABLE))
    high, wide = getattr(attn, "window", None) or attn.window_size
    rows = len(given) - (len(own) - (2 * high - 1) * (2 * wide - 1))
    side = math.isqrt(max(rows, 0))
    if side * side != rows or side % 2 == 0:
        raise UserError(
            f"{source}: not a checkpoint of this model: {name} has {counted(len(given), 'row')}, of no square window; "
            "the model must see images of the same size and have the same windows, model.img_size and "
            "model.window_size"
        )
    return resize_rel_pos_bias_table(given, (high, wide), (len(own), given.shape[1]))
