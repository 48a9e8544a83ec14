"""Mixup and CutMix with soft targets.

Zhang et al.: mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412.
Yun et al.: CutMix, arXiv:1905.04899. Szegedy et al., arXiv:1512.00567, for label smoothing.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.data.seeding import stream


@dataclass(frozen=True)
class BatchMixer:
    """timm's `Mixup` in batch mode, as a pure function of a key, for odd batches too.

    An image is mixed with its mirror place in the batch (the first with the last). Whether, how and how
    much is drawn once per batch from a stream seeded by (seed, *key): mixup_alpha and cutmix_alpha are the
    parameters of the Beta distributions (0: never), `prob` is the chance to mix at all, `switch_prob` to
    take CutMix where both are on.
    """

    num_classes: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    smoothing: float = 0.0
    seed: int = 0

    @property
    def softens(self) -> bool:
        """Whether targets become distributions. If not, batches pass through unchanged."""
        return bool(self.mixup_alpha or self.cutmix_alpha or self.smoothing)

    def __call__(self, images: Tensor, targets: Tensor, *key: int) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] and targets int64 [B] to mixed images and targets float32 [B, classes]."""
        if not self.softens:
            return images, targets
        images, weight = self._mix(images, stream("mixing", self.seed, *key))
        soft = F.one_hot(targets, self.num_classes).float()
        soft = soft * (1 - self.smoothing) + self.smoothing / self.num_classes
        return images, soft * weight + soft.flip(0) * (1 - weight)

    def _mix(self, images: Tensor, random: np.random.RandomState) -> tuple[Tensor, float]:
        """The mixed images and the weight of the image that stands in its own place."""
        if not (self.mixup_alpha or self.cutmix_alpha) or random.random_sample() >= self.prob:
            return images, 1.0
        cut = self.cutmix_alpha > 0
        if cut and self.mixup_alpha:
            cut = random.random_sample() < self.switch_prob
        if cut:
            return _cut(images, random.beta(self.cutmix_alpha, self.cutmix_alpha), random)
        weight = random.beta(self.mixup_alpha, self.mixup_alpha)
        return images * weight + images.flip(0) * (1 - weight), weight


def _cut(images: Tensor, weight: float, random: np.random.RandomState) -> tuple[Tensor, float]:
    """Pastes a box of the mirror image; the weight that is left follows from the box inside the image."""
    height, width = images.shape[-2:]
    side = math.sqrt(1 - weight)
    box_height, box_width = int(height * side), int(width * side)
    y, x = random.randint(height), random.randint(width)
    top, bottom = max(y - box_height // 2, 0), min(y + (box_height + 1) // 2, height)
    left, right = max(x - box_width // 2, 0), min(x + (box_width + 1) // 2, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
