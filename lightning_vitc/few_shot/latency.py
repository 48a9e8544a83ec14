"""How long networks take, measured in turns so that a slow moment of the machine hits all of them alike."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def latencies(networks: Mapping[Any, nn.Module], images: Tensor, repeats: int = 20) -> dict[Any, float]:
    """Least milliseconds of a forward pass of each network over the same images [B, C, H, W].

    The least, because everything else that runs on a machine only ever adds to it.

    Args:
        networks: by whatever names them; put into evaluation mode, on the device of the images.
        images: the batch.
        repeats: rounds that are timed, after one that is not.
    """
    taken: dict[Any, list[float]] = {name: [] for name in networks}
    for number in range(repeats + 1):
        for name, network in networks.items():
            network.eval().to(images.device)
            _finish(images.device)
            started = time.perf_counter()
            network(images)
            _finish(images.device)
            if number:
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: min(values) for name, values in taken.items()}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
