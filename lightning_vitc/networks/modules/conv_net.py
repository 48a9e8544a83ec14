"""What networks of convolutions have in common, by timm's conventions: grids of channels, pooled for a classifier."""

from typing import Any

from torch import Tensor

from lightning_vitc.networks.modules.classifying import Classifying
from lightning_vitc.networks.modules.conv_block import pooled


class ConvNet(Classifying):
    """Images [B, C, H, W], of any size -> logits [B, classes]; features are [B, D, H, W].

    A family adds its layers under upstream's names, and says how images become a stream (`embed`) and the stream
    features (`features_of`).
    """

    def embed(self, x: Tensor) -> Tensor:
        """Images -> the stream of the first stage."""
        raise NotImplementedError

    def features_of(self, x: Tensor) -> Tensor:
        """The stream behind the last block -> what is pooled."""
        return x

    def features(self, x: Tensor) -> Tensor:
        """All blocks."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.features_of(x)

    def pooled(self, x: Tensor) -> Tensor:
        """The mean over positions."""
        return pooled(x)


def size_of(model: Any) -> tuple[int, int]:
    """Of the images that a model of timm is for, which takes any: what it was asked for, or trained with."""
    found = getattr(model, "img_size", None) or (model.pretrained_cfg or {}).get("input_size", (3, 224, 224))[1:]
    return (found, found) if isinstance(found, int) else (found[0], found[1])
