"""timm's augmentation policies, whole: its `posterize` asks for 0 bits, which Pillow refuses from version 13 on."""

from collections.abc import Iterator
from typing import Any

from PIL import Image
from timm.data import auto_augment


def posterized(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """The image with so many bits a channel: black with none, as Pillow had it and the papers trained with it."""
    return auto_augment.posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)


def complete(augment: Any) -> None:
    """Replace what cannot be computed in timm's stage of color and policies, a `Compose`; its random draws stay."""
    for transform in augment.transforms:
        for operation in _operations(transform):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = posterized


def _operations(transform: Any) -> Iterator[Any]:
    if isinstance(transform, auto_augment.AutoAugment):
        for part in transform.policy:
            yield from part
    elif isinstance(transform, (auto_augment.RandAugment, auto_augment.AugMixAugment)):
        yield from transform.ops
