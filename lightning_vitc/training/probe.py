"""A linear probe: the classifier alone is trained, on features of a network that rests."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.losses import cross_entropy
from lightning_vitc.training.module import CompressionModule, StepResult, Variant


class Probe(CompressionModule):
    """Cross-entropy of classifiers [B, D] -> [B, classes] on cached features; of two (DeiT) that of their mean.

    Nothing is dropped at random: features are those of an evaluation.

    Args:
        backbone: the network, whose classifier is trained and nothing else.
        optimizer: the recipe.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig):
        super().__init__(backbone, optimizer)
        backbone.requires_grad_(False)
        for classifier in classifiers(backbone):
            classifier.requires_grad_(True)

    def features(self, images: Tensor) -> Tensor:
        """What each classifier reads [B, classifiers, D], of images [B, C, H, W]."""
        read: list[Tensor] = []
        handles = [
            classifier.register_forward_pre_hook(lambda _, given: read.append(given[0]))
            for classifier in classifiers(self.backbone)
        ]
        self.backbone(images)
        for handle in handles:
            handle.remove()
        return torch.stack(read, dim=1)

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, classes] of features [B, classifiers, D]."""
        pairs = zip(classifiers(self.backbone), features.unbind(1), strict=True)
        return torch.stack([classifier(read) for classifier, read in pairs]).mean(0)

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """One pass through the classifiers; the images are features."""
        return StepResult(cross_entropy(self.classify(images), targets))

    def variants(self) -> list[Variant]:
        """The network by its features."""
        return [Variant("probe", self.backbone.spec, self.classify)]


def classifiers(network: Backbone) -> tuple[nn.Module, ...]:
    """One, or with a distillation token two, in the order in which they run."""
    found: Any = network.get_classifier()
    return tuple(found) if isinstance(found, tuple) else (found,)
