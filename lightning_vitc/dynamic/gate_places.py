"""Where in a stack the weights of a gate network lie, and stacks from the states of networks."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.networks.gates.networks import GateNetwork, RunningNorm

# So that what is normalized alike, and what has one activation, are neighbors.
ORDER = ("relu", "relu_bn", "relu_ln", "gelu_ln_3", "gelu_ln", "gelu", "linear")


@cache
def places_of(order: tuple[str, ...]) -> dict[str, dict[str, tuple[str, int]]]:
    """For every candidate and every tensor of its state: which tensor of the stack holds it, and where in it."""
    taken: dict[str, int] = {}
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for name in order:
        found[name] = {}
        for key, group in _groups(name).items():
            found[name][key] = group, taken.get(group, 0)
            taken[group] = taken.get(group, 0) + 1
    return found


def _groups(name: str) -> dict[str, str]:
    with torch.device("meta"):
        layers = GateNetwork(name, 8).layers
    linears = [number for number, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    found = {}
    for number, layer in enumerate(layers):
        before = sum(linear < number for linear in linears)
        if isinstance(layer, nn.Linear):
            role = "linear" if len(linears) == 1 else "last" if number == linears[-1] else ("first", "second")[before]
            found[f"layers.{number}.weight"] = f"{role}_weight"
            found[f"layers.{number}.bias"] = "last_bias" if number == linears[-1] else f"{role}_bias"
        elif isinstance(layer, nn.LayerNorm):
            role = ("layer", "second_layer")[before - 1]
            found |= {f"layers.{number}.{key}": f"{role}_{key}" for key in layer.state_dict()}
        elif isinstance(layer, RunningNorm):
            found |= {f"layers.{number}.{key}": f"batch.{key}" for key in layer.state_dict()}
    return found


def stacked_state(states: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> dict[str, Tensor]:
    """The state of a stack from those of its networks, [U][K] in the order of `names`."""
    order = tuple(sorted(names, key=ORDER.index))
    places = places_of(order)
    groups: dict[str, list[Tensor]] = {}
    for name in order:
        column = names.index(name)
        for key, (group, _) in places[name].items():
            groups.setdefault(group, []).append(torch.stack([row[column][key] for row in states]))
    return {group: torch.stack(columns, dim=1) for group, columns in groups.items()}
