"""Running statistics of batch norms: agreed on by all processes, and measured for a sub-network of its own.

A batch norm trains by the statistics of the batch at hand, of each process its own, and keeps a running mean of them
for evaluation.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Those that have running statistics, in order."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]


def statistics(network: nn.Module) -> list[Tensor]:
    """Running means and variances, which are averaged wherever weights are."""
    return [tensor for norm in batch_norms(network) for tensor in (norm.running_mean, norm.running_var)]  # type: ignore[misc]


@torch.no_grad()
def agree(network: nn.Module) -> None:
    """Average the running statistics over all processes, so that every one has those of all their batches.

    Done after every step, it keeps them the same everywhere: a running mean of means is the mean of the running means.
    """
    own = statistics(network)
    if own:
        flat = torch.cat(own)
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        for tensor, mean in zip(own, flat.split([len(tensor) for tensor in own]), strict=True):
            tensor.copy_(mean)


@torch.no_grad()
def calibrate(networks: Sequence[nn.Module], batches: Iterable[Tensor]) -> None:
    """Set the running statistics to the means over batches of images, all weighing the same.

    Networks that share their weights with a larger one have other statistics than it (US-Net, Yu and Huang, ICCV 2019).

    Args:
        networks: in evaluation mode, and left so: nothing is dropped.
        batches: images [B, C, H, W].
    """
    norms = [norm for network in networks for norm in batch_norms(network)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    for images in batches:
        for network in networks:
            weight = next(network.parameters())
            network(images.to(weight.device, weight.dtype))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def measured(network: nn.Module) -> dict[str, Tensor]:
    """The statistics of a network by their names in its state dict."""
    named = {id(norm): name for name, norm in network.named_modules() if isinstance(norm, _BatchNorm)}
    return {f"{named[id(norm)]}.{key}": buffer for norm in batch_norms(network) for key, buffer in norm.named_buffers()}
