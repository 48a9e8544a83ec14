"""The first-order sensitivity of a network's features to its pieces and blocks, by gradients of random projections."""

import zlib
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.moments import watched
from lightning_vitc.compensation.outlets import Outlet, Place, stream_dim
from lightning_vitc.networks.backbone import Backbone

PROJECTIONS = 2  # of the features of an image: the mean over images does the rest


def sensitivities(
    network: Backbone, calibration: Calibration, outlets: dict[Place, Outlet], means: dict[Place, Tensor],
    added: dict[int, Tensor], seed: int,
) -> tuple[dict[Place, Tensor], dict[int, Tensor]]:  # fmt: skip
    """Of the pieces of every branch [P], and of every block; see `ranking` for the formula.

    Args:
        network: in evaluation mode.
        calibration: the images; signs depend on the seed and the number of a batch alone.
        outlets: of the branches.
        means: E a [P] of the pieces.
        added: E d [D] of the blocks.
        seed: of the signs.
    """
    device, dim = next(network.parameters()).device, stream_dim(network.spec)
    pieces = {place: torch.zeros_like(mean) for place, mean in means.items()}
    blocks = {number: torch.zeros((), dtype=torch.float64, device=device) for number in added}
    count = torch.zeros((), dtype=torch.float64, device=device)
    for number, images in calibration.batches.items():
        features, entered, streams = _run(network, images.to(device), outlets)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {number}".encode()))
        for left in reversed(range(PROJECTIONS)):
            signs = (torch.randint(2, features.shape, generator=generator) * 2 - 1).to(features)
            wanted = [*entered.values(), *(after for _, after in streams.values())]
            found = torch.autograd.grad((signs * features).sum(), wanted, retain_graph=left > 0)
            for (place, a), g in zip(entered.items(), found, strict=False):
                pieces[place] += _squares(outlets[place], a, g, means[place], len(images))
            for (at, (before, after)), g in zip(streams.items(), found[len(entered) :], strict=True):
                if network.blocks[at].keeps_stream:
                    change, slope = (one.detach().movedim(dim, -1).double() for one in (after - before, g))
                    blocks[at] += ((change - added[at]) * slope).flatten(1).sum(1).square().sum()
        count += PROJECTIONS * features.numel()
    calibration.total(count, *pieces.values(), *blocks.values())
    return {place: one / count for place, one in pieces.items()}, {at: one / count for at, one in blocks.items()}


def _run(
    network: Backbone, images: Tensor, outlets: dict[Place, Outlet]
) -> tuple[Tensor, dict[Place, Tensor], dict[int, tuple[Tensor, Tensor]]]:
    """Features, what entered each outlet, and the stream before and behind each block, with a graph."""
    entered: dict[Place, Tensor] = {}
    streams: dict[int, tuple[Tensor, Tensor]] = {}

    def run(number: int, block: Any, x: Tensor) -> Tensor:
        after = block(x)
        streams[number] = x, after
        return after

    layers = {place: outlet.layer for place, outlet in outlets.items()}
    with torch.enable_grad(), watched(layers, entered.__setitem__):
        features = network.walk(images.detach().requires_grad_(), run)
    return features, entered, streams


def _squares(outlet: Outlet, a: Tensor, g: Tensor, mean: Tensor, images: int) -> Tensor:
    """[P] over images the squared sum over positions of g (a - E a)."""
    values, gradients = (outlet.by_image(one.detach(), images).double() for one in (a, g))
    return ((values - mean) * gradients).sum(1).square().sum(0)
