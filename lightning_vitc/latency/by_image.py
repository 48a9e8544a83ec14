"""The latency of a network that skips by the image: image by image, beside the dense one."""

import statistics
from copy import deepcopy

import torch
from torch import Tensor, nn

from lightning_vitc.latency.measuring import threads
from lightning_vitc.latency.place import Place
from lightning_vitc.latency.timing import interleaved

ROUNDS = 5


def share_by_image(network: nn.Module, dense: nn.Module, images: Tensor, place: Place) -> float:
    """The mean time of these images [B, C, H, W], one at a time, over that of the dense network.

    Of every image the median of some rounds counts, so that the images differ and the noise does not.
    """
    ours, theirs = (deepcopy(module).eval().to(place.device) for module in (network, dense))
    total = {"network": 0.0, "dense": 0.0}
    with threads(place.threads):
        for image in images.to(place.device).split(1):
            calls = {"network": lambda image=image: ours(image), "dense": lambda image=image: theirs(image)}
            for name, times in interleaved(calls, torch.device(place.device), ROUNDS, warmup=1).items():
                total[name] += statistics.median(times)
    return total["network"] / total["dense"]
