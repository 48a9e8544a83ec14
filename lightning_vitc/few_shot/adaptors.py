"""Linear adaptors around a missing block, which tell how well the rest can make up for it (PRACTISE)."""

import torch
from torch import nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import without_blocks


def adapted(network: Backbone, block: int) -> Backbone:
    """A copy without the block, with identity-initialized linear layers to make up for it; only they are trained.

    One stands after `mlp.fc2` of every earlier block and one before `attn.qkv` of every later one, or behind `norm1`
    where there is no such layer.

    Args:
        network: dense; not changed.
        block: the number of the one that is dropped.
    """
    small = compact_backbone(network, without_blocks(network, (block,))).requires_grad_(False)
    for number in range(small.spec.depth):
        left = small.blocks[number]
        if number < block:
            left.mlp.fc2 = nn.Sequential(left.mlp.fc2, _identity(small, number))
        elif getattr(left.attn, "qkv", None) is None:  # projections of their own, or a mixer
            left.norm1 = nn.Sequential(left.norm1, _identity(small, number))
        else:
            left.attn.qkv = nn.Sequential(_identity(small, number), left.attn.qkv)
    return small


def _identity(network: Backbone, block: int) -> nn.Linear:
    width = network.spec.width_at(block)
    layer = nn.Linear(width, width, bias=False, device=next(network.parameters()).device)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
    return layer
