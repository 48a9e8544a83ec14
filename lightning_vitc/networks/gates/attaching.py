"""Puts gates into a network's blocks, moves their decisions, and takes them out again."""

from collections.abc import Sequence

import torch
from torch import nn

from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.gates.networks import GateNetwork

Pair = tuple[GateNetwork | None, GateNetwork | None]  # of attention and MLP of a block


def names_of(gates: Sequence[Pair]) -> list[tuple[str | None, ...]]:
    """Of gate networks, block by block."""
    return [tuple(None if gate is None else gate.name for gate in pair) for pair in gates]


def with_gates(network: Backbone, gates: Sequence[Pair]) -> Backbone:
    """A copy whose blocks decide by these gates, of attention and MLP block by block."""
    spec, shape = network.spec.with_gates(names_of(gates)), shape_of(network.spec)
    gated = from_spec(spec, fresh=False, rates=network.rates)
    weights = dict(network.state_dict())
    for number, pair in enumerate(gates):
        block = shape.block_prefix(*spec.place(number))
        for name, gate in zip(("gate1", "gate2"), pair, strict=True):
            state = {} if gate is None else gate.state_dict()
            weights |= {f"{block}{name}.{key}": value for key, value in state.items()}
    gated.load_state_dict(weights)
    gated.pretrained_cfg = network.pretrained_cfg
    return gated


def without_gates(network: Backbone) -> Backbone:
    """The resident model in which everything runs."""
    spec = network.spec.with_gates([(None, None)] * network.spec.depth)
    plain = from_spec(spec, fresh=False, rates=network.rates)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if ".gate" not in name})
    plain.pretrained_cfg = network.pretrained_cfg
    return plain


def gates_of(network: nn.Module) -> list[GateNetwork]:
    """All gates of a network, in order."""
    return [module for module in network.modules() if isinstance(module, GateNetwork)]


def lower(network: nn.Module, shift: float, which: Sequence[bool] | None = None) -> None:
    """Make gates skip what they would run by a margin of less than `shift`, a difference of logits.

    Args:
        network: with gates.
        shift: negative to make them run more.
        which: of the gates, in order; all by default.
    """
    gates = gates_of(network)
    with torch.no_grad():
        for gate, moves in zip(gates, [True] * len(gates) if which is None else which, strict=True):
            if moves:
                gate.last.bias[0] += shift
