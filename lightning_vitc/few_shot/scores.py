"""How well a candidate recovered, by what it makes of a set of images (DC-ViT, eq. 6)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.few_shot.feature_matching import token_loss
from lightning_vitc.networks.backbone import Backbone

Score = Literal["kl", "mse"]
AT_ONCE = 50  # images in a forward pass


@torch.no_grad()
def score(original: Backbone, candidate: Backbone, images: Tensor, kind: Score = "kl") -> float:
    """Mean over images of KL(p_original || p_candidate), or with `mse` of all their tokens' squared difference.

    Smaller is easier to recover.

    Args:
        original, candidate: put into evaluation mode.
        images: [M, C, H, W].
        kind: what is compared.
    """
    device, total = next(original.parameters()).device, 0.0
    candidate = candidate.to(device).eval()
    original.eval()
    for part in images.split(AT_ONCE):
        part = part.to(device)
        if kind == "kl":
            wanted, given = (F.log_softmax(one(part).float(), dim=-1) for one in (original, candidate))
            value = F.kl_div(given, wanted, log_target=True, reduction="batchmean")
        else:
            value = token_loss(candidate.forward_features(part), original.forward_features(part))
        total += float(value) * len(part)
    return total / len(images)
