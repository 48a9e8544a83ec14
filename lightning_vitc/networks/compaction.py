"""Physical removal: a model and what is kept of it -> a smaller plain model."""

import torch
from timm.models.vision_transformer import VisionTransformer

from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.families.plain.network import build, place_buffers
from lightning_vitc.networks.kept import Kept, gather
from lightning_vitc.networks.spec import ArchSpec


def compact(model: VisionTransformer, kept: Kept | None) -> VisionTransformer:
    """The sub-network as a model of its own.

    Args:
        model: the dense network, a backbone or a model of this library.
        kept: what remains; its indices are into `model`'s dimensions. `None` keeps everything.

    Returns:
        A plain timm-style ViT in evaluation mode with copies of the weights: no mask, no gate but those that its
        blocks decide by from their input, nothing of the training code. Its logits equal those of
        `model(x, kept=kept)`.
    """
    weights = dict(model.state_dict())
    if kept is not None:
        weights = gather(weights, kept)
    with torch.device("meta"):
        small = build(ArchSpec.of(model) if kept is None else kept.spec)
    weights = {name: weight.clone() for name, weight in weights.items()}
    small.load_state_dict(weights, assign=True)
    place_buffers(small, next(iter(weights.values())).device)
    return small.eval()


def compact_backbone(network: Backbone, kept: Kept) -> Backbone:
    """The sub-network as a backbone of its own, to be trained further."""
    small = from_spec(kept.spec, fresh=False, rates=network.rates)
    small.load_state_dict(compact(network, kept).state_dict())
    small.pretrained_cfg = network.pretrained_cfg
    return small.to(next(network.parameters()).device)
