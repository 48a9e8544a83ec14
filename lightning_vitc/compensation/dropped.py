"""A block that has lost its attention and a part of its MLP, compensated by what is left of it (for DC-ViT)."""

from typing import Any

import torch
from torch import Tensor

from lightning_vitc.compensation.calibration import SEEN_AT_ONCE, Calibration
from lightning_vitc.compensation.folding import regressed
from lightning_vitc.compensation.moments import Moments
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.least_squares import seen_by

RIDGE = 1e-3  # of the mean variance of a unit


@torch.no_grad()
def compensate_block(network: Backbone, small: Backbone, block: int, images: Tensor) -> None:
    """Fold what a block has lost, attention and hidden units, into FC2' and its bias.

    With a the activations of the units that stay and r what the block's output lacks, the change of the weight is the
    regression of r onto a as in `folding`, and the mean of r that it does not explain goes into the bias. Against
    `least_squares` the bias is not shrunk, and the ridge is of variances.

    Args:
        network: before the block was compressed.
        small: after it; FC2' is changed in place.
        block: its number.
        images: [M, C, H, W].
    """
    device = next(small.parameters()).device
    fc2: Any = small.blocks[block].mlp.fc2
    moments = Moments(fc2.out_features, fc2.in_features, device, apart=True)
    for part in images.split(SEEN_AT_ONCE):
        activations, lacking = seen_by(network, small, block, part.to(device))
        moments.add(lacking, activations[:, :-1])
    joint = moments.joint(Calibration({}), torch.empty(0))
    change = regressed(joint.cross, joint.own, RIDGE)
    fc2.weight.add_(change.to(fc2.weight).view_as(fc2.weight))
    if fc2.bias is not None:
        fc2.bias.add_((joint.mean - change @ joint.mean_kept).to(fc2.bias))
