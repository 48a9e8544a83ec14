"""What a network expects of an image, and timm's transform that makes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image
from timm.data.constants import DEFAULT_CROP_MODE, DEFAULT_CROP_PCT
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import Compose, Grayscale

from lightning_vitc.images.decoding import in_rgb

Transform = Callable[[Image.Image], Tensor]
"""From an RGB image to float32 [C, H, W], normalized."""


@dataclass(frozen=True)
class ImageSpec:
    """The tensors a model wants: `size` is (height, width); `mean` and `std` have a value per channel.

    `interpolation`, `crop_pct` (the side of the center crop, as a part of the resized image) and `crop_mode` (timm's:
    `center` keeps the aspect and cuts, `squash` stretches, `border` pads) are those of evaluation.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = DEFAULT_CROP_PCT
    crop_mode: str = DEFAULT_CROP_MODE

    @property
    def shows_the_whole(self) -> bool:
        """Whether evaluation is a plain resize of a square image: nothing is cut off and nothing added."""
        return self.crop_pct == 1.0 and (self.size[0] == self.size[1] or self.crop_mode == "squash")

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) that evaluation resizes to before it cuts: timm's, rounded down."""
        return int(self.size[0] / self.crop_pct), int(self.size[1] / self.crop_pct)

    @property
    def timm_size(self) -> int | tuple[int, int]:
        """An integer where the image is square: torchvision then keeps the aspect when it resizes."""
        return self.size[0] if self.size[0] == self.size[1] else self.size


def evaluation_transform(spec: ImageSpec) -> Transform:
    """Resize and crop, then normalize: timm's transform of evaluation, to the bit."""
    transform = create_transform(
        spec.timm_size,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
    )
    return transform if spec.channels == 3 else Compose([Grayscale(), transform])


def image_spec_of(preprocessing: Mapping[str, Any]) -> ImageSpec | None:
    """The tensors that the `preprocessing` of an export describes.

    Args:
        preprocessing: `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode` in timm's meaning.

    Returns:
        `None` where it is not known what the network was trained on.
    """
    if not {"input_size", "mean", "std"} <= preprocessing.keys():
        return None
    channels, height, width = preprocessing["input_size"]
    how = {key: preprocessing[key] for key in ("interpolation", "crop_pct", "crop_mode") if key in preprocessing}
    mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    return ImageSpec(size=(height, width), channels=channels, mean=mean, std=std, **how)


def transform_of(preprocessing: Mapping[str, Any]) -> Transform | None:
    """The transform that the `preprocessing` of an export describes; it takes images of Pillow in any mode.

    Args:
        preprocessing: see `image_spec_of`; and `exif`: whether an image is turned as its EXIF says.

    Returns:
        From an image to float32 [C, H, W], or `None` where it is not known.
    """
    spec = image_spec_of(preprocessing)
    if spec is None:
        return None
    return Compose([partial(in_rgb, exif=bool(preprocessing.get("exif"))), evaluation_transform(spec)])
