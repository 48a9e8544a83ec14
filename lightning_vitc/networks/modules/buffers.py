"""Buffers that are no weights: positions, tables of distances."""

import torch
from torch import nn

from lightning_vitc.networks.transfer import sent


def place_buffers(model: nn.Module, device: torch.device) -> None:
    """Move the index buffers, which a family's `build` makes on the CPU, to where the weights are.

    Those that are on `meta` are no index buffers but running statistics, which come with the weights.
    """
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_meta:
                setattr(module, name, sent(buffer, device))
