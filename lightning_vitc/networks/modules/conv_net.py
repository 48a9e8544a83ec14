"""What networks of convolutions have in common, by timm's conventions: grids of channels, pooled for a classifier."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_vitc.networks.modules.compilation import Compilable, method_of
from lightning_vitc.networks.modules.conv_block import pooled
from lightning_vitc.networks.modules.notes import renew_notes
from lightning_vitc.networks.spec import ArchSpec


class ConvNet(Compilable, nn.Module):
    """Images [B, C, H, W], of any size -> logits [B, classes].

    A family adds its layers under upstream's names, and says how images become a stream (`embed`) and the stream
    features (`features_of`).

    Attributes:
        spec: the architecture.
        blocks: of all stages.
        classifier_name: of the linear layer.
    """

    blocks: Any
    classifier_name: str
    pretrained_cfg: Any = None

    def __init__(self, spec: ArchSpec, rates: Mapping[str, float]):
        super().__init__()
        self.spec, self.num_classes = spec, spec.num_classes
        self.drop = nn.Dropout(rates.get("drop_rate", 0.0))

    def embed(self, x: Tensor) -> Tensor:
        """Images -> the stream of the first stage."""
        raise NotImplementedError

    def features_of(self, x: Tensor) -> Tensor:
        """The stream behind the last block -> what is pooled."""
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Features [B, D, H, W]."""
        return method_of(self, ConvNet._features, self.compiled == "whole")(x)

    def _features(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.features_of(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or what the classifier reads [B, D], of features."""
        x = self.drop(pooled(x))
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.forward_head(self.forward_features(x))

    def add_classifier(self, width: int) -> None:
        """Of features of this width."""
        self.num_features = self.head_hidden_size = width
        layer = nn.Linear(width, self.num_classes) if self.num_classes else nn.Identity()
        setattr(self, self.classifier_name, layer)

    def get_classifier(self) -> nn.Module:
        """timm's."""
        return getattr(self, self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier."""
        self.num_classes, self.spec = num_classes, replace(self.spec, num_classes=num_classes)
        self.add_classifier(self.num_features)
        self.get_classifier().to(next(self.parameters()).device)
        renew_notes(self)

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """For images of another size; nothing of the weights depends on it."""
        self.spec = self.spec.with_img_size(img_size)
        renew_notes(self)

    def no_weight_decay(self) -> set[str]:
        """timm's convention: none by name; what has one dimension is never decayed."""
        return set()


def size_of(model: Any) -> tuple[int, int]:
    """Of the images that a model of timm is for, which takes any: what it was asked for, or trained with."""
    found = getattr(model, "img_size", None) or (model.pretrained_cfg or {}).get("input_size", (3, 224, 224))[1:]
    return (found, found) if isinstance(found, int) else (found[0], found[1])
