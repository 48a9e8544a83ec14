"""The second layer of a compressed block by ridge regression on a few images (ours)."""

from typing import Any

import torch
from torch import Tensor

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.blocks import MLP

SEEN_AT_ONCE = 50  # images
RIDGE = 1e-2  # of the mean energy of a hidden unit: what the images do not determine stays as it was


@torch.no_grad()
def fit_second_layer(network: Backbone, small: Backbone, block: int, images: Tensor) -> None:
    """Let FC2' of the compressed block add what the removed part of the block did, as far as its units can.

    With a the activations of the units that stay and r what the block's output lacks without the others, per token,
    the change W of (weight, bias) minimizes sum |r - W (a, 1)|² + ridge |W|². The attention counts as removed too.

    Args:
        network: before the block was compressed.
        small: after it; FC2' is changed in place.
        block: its number.
        images: [M, C, H, W].
    """
    device = next(small.parameters()).device
    fc2: Any = small.blocks[block].mlp.fc2
    units = fc2.in_features + 1
    gram = torch.zeros(units, units, dtype=torch.float64, device=device)
    moment = torch.zeros(units, fc2.out_features, dtype=torch.float64, device=device)
    for part in images.split(SEEN_AT_ONCE):
        activations, lacking = seen_by(network, small, block, part.to(device))
        gram += activations.T @ activations
        moment += activations.T @ lacking
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    change = torch.linalg.solve(gram, moment).T.to(fc2.weight.dtype)
    fc2.weight.add_(change[:, :-1].reshape(fc2.weight.shape))
    if fc2.bias is not None:
        fc2.bias.add_(change[:, -1])


def seen_by(network: Backbone, small: Backbone, block: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Activations and a one [B N, h + 1], and what the compressed block's output lacks [B N, D], before LayerScale."""
    before, now = (one.eval().running()[block] for one in (network, small))
    after: Any = small.blocks[block]
    x, seen = small.entering(block, images), []
    hook = after.mlp.fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    lacking = (before(x) - now(x)).flatten(0, -2).double()
    hook.remove()
    activations = seen[0].flatten(0, -2).double()
    if (scale := after.gains(MLP)) is not None:
        lacking = torch.where(scale == 0, 0.0, lacking / scale)  # through a gain of zero nothing can be added
    return torch.cat([activations, activations.new_ones(len(activations), 1)], dim=1), lacking
