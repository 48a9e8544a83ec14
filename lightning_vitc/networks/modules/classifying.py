"""What networks of our own have around their blocks, where timm has no such model: features, classifier, image size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_vitc.networks.modules.compilation import Compilable, method_of
from lightning_vitc.networks.modules.notes import renew_notes
from lightning_vitc.networks.spec import ArchSpec

STD = 0.02  # of fresh linear layers


class Classifying(Compilable, nn.Module):
    """Images [B, C, H, W] -> logits [B, classes], by timm's conventions.

    A family adds its layers under upstream's names, and says how images become features (`features`), what of them a
    classifier reads (`pooled`), and how a fresh layer is drawn where torch's way is not its own (`draw`).

    Args:
        spec: the architecture.
        rates: timm's `drop_rate`, of what a classifier reads.

    Attributes:
        spec: the architecture.
        blocks: of all stages.
        classifiers: names of the linear layers, the evaluated one first.
    """

    blocks: Any
    classifiers: tuple[str, ...] = ("head",)
    pretrained_cfg: Any = None

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__()
        self.spec, self.num_classes = spec, spec.num_classes
        self.head_drop = nn.Dropout(rates.get("drop_rate", 0.0))

    def features(self, x: Tensor) -> Tensor:
        """Images -> what `forward_features` gives."""
        raise NotImplementedError

    def pooled(self, x: Tensor) -> Tensor:
        """Features -> [B, D]."""
        raise NotImplementedError

    def draw(self, layer: nn.Module) -> None:
        """New weights of a layer in place."""

    def forward_features(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Features."""
        return method_of(self, type(self).features, self.compiled == "whole")(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or what the classifier reads [B, D], of features."""
        x = self.head_drop(self.pooled(x))
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.forward_head(self.forward_features(x))

    def classifier_of(self, width: int) -> nn.Module:
        """One that reads D = `width` numbers; nothing where there are no classes."""
        self.num_features = self.head_hidden_size = width
        return nn.Linear(width, self.num_classes) if self.num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """timm's."""
        return getattr(self, self.classifiers[0])

    def reset_classifier(self, num_classes: int) -> None:
        """New classifiers."""
        self.num_classes, self.spec = num_classes, replace(self.spec, num_classes=num_classes)
        device = next(self.parameters()).device
        for name in self.classifiers:
            layer = self.classifier_of(self.num_features).to(device)
            self.draw(layer)
            setattr(self, name, layer)
        renew_notes(self)

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """For images of another size; nothing of the weights depends on it."""
        self.spec = self.spec.with_img_size(img_size)
        renew_notes(self)

    def no_weight_decay(self) -> set[str]:
        """timm's convention: none by name; what has one dimension is never decayed."""
        return set()


def draw_linear(layer: nn.Module) -> None:
    """A linear layer's weights from a truncated normal distribution, and no bias; other layers stay as they are."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=STD)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
