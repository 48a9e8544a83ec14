"""Where the channels of what enters a layer are."""

from torch import nn


def channel_dim(layer: nn.Module) -> int:
    """1 for convolutions and batch norms, and -1 for layers of tokens, and for those that say `channels_last`."""
    of_grids = isinstance(layer, nn.Conv2d | nn.BatchNorm2d) and not getattr(layer, "channels_last", False)
    return 1 if of_grids else -1
