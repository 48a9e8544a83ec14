"""The names of weights, format by format: each is one function in `FORMATS`, which runs one after another.

A function is given the weights and the names of the network's own, and gives them back under timm's names; those of
another format it leaves alone.
"""

import re
from collections.abc import Callable, Set

from torch import Tensor

Weights = dict[str, Tensor]


def wrapped(weights: Weights, own: Set[str]) -> Weights:
    """Inside of other modules: DDP's `module.`, torch.compile's `_orig_mod.`, `model.` of a LightningModule."""
    weights = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    while not weights.keys() & own and len({name.partition(".")[0] for name in weights}) == 1:
        inner = {name.partition(".")[2]: value for name, value in weights.items()}
        if "" in inner:
            break
        weights = inner
    return weights


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


FORMATS: tuple[Callable[[Weights, Set[str]], Weights], ...] = (wrapped, deit_iii, masked_images, mixed_frequencies)


def with_timms_names(weights: Weights, own: Set[str]) -> Weights:
    """The weights under the names of the network, as far as their format is known."""
    for renamed in FORMATS:
        weights = renamed(weights, own)
    return weights
