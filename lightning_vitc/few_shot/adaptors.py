"""Linear adaptors around a missing block, which tell how well the rest can make up for it (PRACTISE).

Of a transformer they stand in all blocks, after the second layer of earlier MLPs and before the queries, keys and
values of later blocks. Of a network of convolutions they are 1x1 convolutions in the stage of the missing block and at
the entry of the next one: after the last convolution of earlier blocks, before its norm, and before the first one of
later blocks. None has a bias, so that they merge exactly into the layers they stand at.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.blocks import ATTN
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import outlet_of, without_blocks
from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.modules.channels import channel_dim
from lightning_vitc.networks.spec import ArchSpec

INLETS = {"basic": "conv1", "inverted": "conv_pw", "mixer": "conv1"}  # what reads the stream, by the kind of the branch
SHORTCUT = "downsample.0"  # of a basic block that changes the stream: it reads it and adds to it
NORM = "norm1"  # behind which an adaptor stands where there is no layer of queries, keys and values together
SPLIT = ("q_proj", "k_proj", "v_proj")  # it is merged into these


class Adapted(nn.Sequential):
    """A layer with an adaptor before or after it."""

    def __init__(self, layer: nn.Module, before: bool):
        adaptor = _identity(layer, before)
        super().__init__(*((adaptor, layer) if before else (layer, adaptor)))
        self.before = before

    @property
    def adaptor(self) -> Any:
        """It."""
        return self[0 if self.before else 1]


def adapted(network: Backbone, block: int) -> Backbone:
    """A copy without the block, with identity-initialized linear layers to make up for it; only they are trained.

    Args:
        network: dense; not changed.
        block: the number of the one that is dropped.
    """
    small = compact_backbone(network, without_blocks(network, (block,))).requires_grad_(False)
    for number, name, before in _places(small, block, network.spec.place(block)[0]):
        small.set_submodule(_name(small, number, name), Adapted(_layer(small, number, name), before))
    return small


@torch.no_grad()
def merged(network: Backbone, trials: Mapping[int, Backbone], dropped: Iterable[int]) -> Backbone:
    """The network without the dropped blocks, into whose layers the adaptors of their trials are multiplied.

    Of one block exactly the network of its trial; of several all adaptors of a layer one after another.

    Args:
        network: dense; not changed.
        trials: made by `adapted`, by their blocks.
        dropped: blocks.
    """
    changed, dropped = deepcopy(network), tuple(dropped)
    for block in dropped:
        for number, name, before in _places(trials[block], block, network.spec.place(block)[0]):
            adaptor = _layer(trials[block], number, name).adaptor.weight
            for layer in _merging(changed, number + (number >= block), name):
                _multiply(layer, adaptor, before or name == NORM)
    return compact_backbone(changed, without_blocks(changed, dropped))


def _places(network: Backbone, block: int, stage: int) -> Iterator[tuple[int, str, bool]]:
    """Of every adaptor the number of its block, the layer there, and whether it stands before it.

    Args:
        network: without the block.
        block: its number.
        stage: that it was of.
    """
    spec = network.spec
    near = range(spec.depth) if _has_attention(spec) else _near(spec, stage)
    for number in near:
        if number < block:
            yield number, outlet_of(spec, number), False
        else:
            yield number, (name := _inlet(network, number)), name != NORM
        if not _has_attention(spec) and hasattr(network.blocks[number], SHORTCUT.partition(".")[0]):
            yield number, SHORTCUT, number >= block


def _near(spec: ArchSpec, stage: int) -> range:
    """The blocks of a stage, and the first of the next."""
    start = sum(spec.depths[:stage])
    return range(start, min(start + spec.depths[stage] + 1, spec.depth))


def _inlet(network: Backbone, number: int) -> str:
    kinds = (branch.kind for branch in network.spec.blocks[number] if branch is not None)
    if (kind := next(kinds)) in INLETS:
        return INLETS[kind]
    return NORM if network.blocks[number].attn.qkv is None else "attn.qkv"


def _merging(network: Backbone, number: int, name: str) -> list[Any]:
    """The layers that an adaptor at this one is multiplied into."""
    names = [f"attn.{part}" for part in SPLIT] if name == NORM else [name]
    return [_layer(network, number, one) for one in names]


def _multiply(layer: Any, adaptor: Tensor, before: bool) -> None:
    matrix = adaptor.flatten(1)  # of a 1x1 convolution
    if before:
        layer.weight.copy_(torch.einsum("oj...,ji->oi...", layer.weight, matrix))
        return
    layer.weight.copy_(torch.einsum("op,p...->o...", matrix, layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(matrix @ layer.bias)


def _identity(layer: Any, before: bool) -> nn.Module:
    device = layer.weight.device
    if channel_dim(layer) == 1:
        width = layer.in_channels if before else layer.out_channels
        convolution = nn.Conv2d(width, width, 1, bias=False, device=device)
        nn.init.dirac_(convolution.weight)
        return convolution
    width = layer.weight.flatten(1).shape[1] if before else layer.weight.shape[0]
    linear = nn.Linear(width, width, bias=False, device=device)
    nn.init.eye_(linear.weight)
    return linear


def _layer(network: Backbone, number: int, name: str) -> Any:
    return network.get_submodule(_name(network, number, name))


def _name(network: Backbone, number: int, name: str) -> str:
    return shape_of(network.spec).block_prefix(*network.spec.place(number)) + name


def _has_attention(spec: ArchSpec) -> bool:
    return any(block.branches[ATTN] is not None for block in spec.blocks)
