"""Which format a file of weights is of: names as they are first, else the first one that has a place for every name."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import nn

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import one_line
from lightning_vitc.networks.weights import huggingface, originals
from lightning_vitc.networks.weights.renaming import Format, Weights

FORMATS: tuple[Format, ...] = (*huggingface.FORMATS, *originals.FORMATS)
HEADS = ("head.", "head_dist.", "fc.", "classifier.", "head_cls.")  # of all networks
ORIGINAL = Format("as its authors name them", {})


def recognized(weights: Weights, model: nn.Module, path: str) -> tuple[Format | None, Weights]:
    """The format of a file, `None` for timm's own, and its weights under the names of the network.

    Args:
        weights: of the file.
        model: the network.
        path: of the file.

    Raises:
        UserError: where weights of a format have not the shapes that it says.
    """
    own, given = model.state_dict(), weights
    weights = unwrapped(given, own.keys())
    plain = with_timms_names(weights, own.keys())
    if _trunk(own.keys()) == _trunk(plain.keys()):
        return None, _counted(plain, own)
    for format in FORMATS:
        try:
            found = format.convert(weights)
        except (RuntimeError, LookupError, ValueError) as error:
            raise UserError(f"{path}: has the names of {format.name}, but not its shapes ({one_line(error)})") from None
        if found is not None:
            return format, _with_zeros(_counted(found, own), own)
    for original in (given, weights):
        found = with_timms_names(_as_timm_reads(original, model), own.keys())
        if len(found.keys() & own.keys()) > len(plain.keys() & own.keys()):
            return ORIGINAL, _with_zeros(_counted(found, own), own)
    return None, _counted(plain, own)


def _trunk(names: Set[str]) -> set[str]:
    return {name for name in names if not name.startswith(HEADS) and not name.endswith(".num_batches_tracked")}


def unwrapped(weights: Weights, own: Set[str]) -> Weights:
    """Out of other modules: DDP's `module.`, torch.compile's `_orig_mod.`, `model.` of a LightningModule."""
    weights = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    while not weights.keys() & own and (place := _only_place(weights, own)):
        weights = {name.removeprefix(place): value for name, value in weights.items() if name.startswith(place)}
    return weights


def _only_place(weights: Weights, own: Set[str]) -> str | None:
    """The prefix of all names, or the one that most of a network is under, beside counters, losses and metrics."""
    starts = {f"{name.partition('.')[0]}." for name in weights}
    if len(starts) > 1:
        starts = {start for start in starts if {name.removeprefix(start) for name in weights} & own}
    if len(starts) != 1:
        return None
    [start] = starts
    inside = {name.removeprefix(start) for name in weights if name.startswith(start)}
    is_most = 2 * len(inside & own) > len(own) or len(inside) == len(weights)
    return start if inside and is_most else None


def deit_iii(weights: Weights, own: Set[str]) -> Weights:
    """Official DeiT III, whose gains are `gamma_1` and `gamma_2`; timm's Eva and BEiT have these names themselves."""
    return {
        name if name in own else re.sub(r"\bgamma_([12])$", r"ls\1.gamma", name): value
        for name, value in weights.items()
    }


def masked_images(weights: Weights, own: Set[str]) -> Weights:
    """Of a training that hid patches (DINOv2, MAE): the token that stood for them is used in no other."""
    return {name: value for name, value in weights.items() if name != "mask_token" or name in own}


def mixed_frequencies(weights: Weights, own: Set[str]) -> Weights:
    """timm's Eva class has learned frequencies [2, L, H, d / 2] of all blocks in one; here each block has its own."""
    if "rope.freqs" not in weights or "rope.freqs" in own:
        return weights
    rest = {name: value for name, value in weights.items() if name != "rope.freqs"}
    return rest | {f"blocks.{number}.attn.freqs": one for number, one in enumerate(weights["rope.freqs"].unbind(1))}


ALIKE: tuple[Callable[[Weights, Set[str]], Weights], ...] = (deit_iii, masked_images, mixed_frequencies)


def with_timms_names(weights: Weights, own: Set[str]) -> Weights:
    """The weights of timm, or of files that differ from it in a name or two, under the names of the network."""
    for renamed in ALIKE:
        weights = renamed(weights, own)
    return weights


def _counted(weights: Weights, own: Weights) -> Weights:
    """With the batches that norms have seen, which files before torch 0.4.1 do not count, and no inference reads."""
    counts = {name: value for name, value in own.items() if name.endswith(".num_batches_tracked")}
    seen = {name for name in counts if name.replace("num_batches_tracked", "running_mean") in weights}
    return {name: torch.zeros_like(counts[name]) for name in sorted(seen)} | weights


def _with_zeros(weights: Weights, own: Weights) -> Weights:
    """Without biases of queries and values that are zero, where the network has none, and with one of zeros for a
    projection (CLIP's) that has none, where its classifier has one: neither changes anything.
    """
    found = {
        name: value for name, value in weights.items()
        if name in own or not name.endswith((".q_bias", ".v_bias")) or value.any()
    }  # fmt: skip
    if "head.weight" in found and "head.bias" in own and "head.bias" not in found:
        found["head.bias"] = found["head.weight"].new_zeros(len(found["head.weight"]))
    return found


def _as_timm_reads(weights: Weights, model: Any) -> Weights:
    """What timm makes of the authors' own names, where it has a function for the kind of network; else as they are.

    It would adapt patches of another size too, which is refused elsewhere: those stay as they are.
    """
    kinds = (sys.modules[kind.__module__] for kind in type(model).__mro__ if kind.__module__.startswith("timm.models."))
    function = next((found for kind in kinds if (found := getattr(kind, "checkpoint_filter_fn", None))), None)
    if function is None:
        return weights
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what a model lacks
            found = function(dict(weights), model)
    except Exception:  # of another network, timm stumbles over anything
        return weights
    kernels = [value for value in weights.values() if value.ndim == 4]
    if "patch_embed.proj.weight" in found and len(kernels) == 1:
        found["patch_embed.proj.weight"] = kernels[0]
    return found
