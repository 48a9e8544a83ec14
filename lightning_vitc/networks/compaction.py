"""Physical removal: a model and what is kept of it -> a smaller plain model."""

from typing import Any

import torch
from torch import nn

from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.kept import Kept, gather
from lightning_vitc.networks.spec import ArchSpec


def compact(model: nn.Module, kept: Kept | None) -> Any:
    """The sub-network as a model of its own.

    Args:
        model: the dense network, a backbone or a model of this library.
        kept: what remains; its indices are into `model`'s dimensions. `None` keeps everything.

    Returns:
        A plain timm-style model in evaluation mode with copies of the weights: no mask, no gate but those that its
        blocks decide by from their input, nothing of the training code. Its logits equal those of
        `model(x, kept=kept)`.
    """
    weights = dict(model.state_dict())
    if kept is not None:
        weights = gather(weights, kept)
    spec = ArchSpec.of(model) if kept is None else kept.spec
    with torch.device("meta"):
        small = network_of(spec).build(spec, {})
    weights = {name: weight.clone() for name, weight in weights.items()}
    small.load_state_dict(weights, assign=True)
    network_of(spec).place_buffers(small, next(iter(weights.values())).device)
    return small.eval()


def compact_backbone(network: Backbone, kept: Kept) -> Backbone:
    """The sub-network as a backbone of its own, to be trained further."""
    small = from_spec(kept.spec, fresh=False, rates=network.rates)
    small.load_state_dict(compact(network, kept).state_dict())
    small.pretrained_cfg = network.pretrained_cfg
    return small.to(next(network.parameters()).device)
