"""What a training makes of images: timm's transforms, by the keys of `data:`."""

from collections.abc import Sequence
from typing import Any

from timm.data.constants import DEFAULT_CROP_MODE, DEFAULT_CROP_PCT
from timm.data.transforms_factory import create_transform
from torchvision.transforms import Compose, Grayscale

from lightning_vitc.data.policies import complete
from lightning_vitc.data.sources import Splits
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.images.preprocessing import ImageSpec, Transform
from lightning_vitc.schema import DataConfig
from lightning_vitc.schema.data import are_deviations, are_means


def _per_channel(key: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value per channel; a gray model takes the average of color statistics."""
    if len(values) == channels:
        return tuple(values)
    if len(values) == 1:
        return tuple(values) * channels
    if channels == 1:
        return (sum(values) / len(values),)
    raise UserError(f"data.{key}: needs {counted(channels, 'value')} or one, not {len(values)}")


def image_spec(
    config: DataConfig,
    splits: Splits,
    *,
    size: tuple[int, int],
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
) -> ImageSpec:
    """Config before model (the keyword arguments) before data set.

    The center crop of evaluation is the model's for photographs; a data set of small square images
    (`native_size`) shows its objects whole, and keeps its rim unless `data.crop_pct` says otherwise.
    """
    if channels not in (1, 3):
        raise UserError(f"model.in_chans: images have 1 or 3 channels, not {channels}")
    average = _per_channel("mean", config.mean or mean or splits.mean, channels)
    deviation = _per_channel("std", config.std or std or splits.std, channels)
    for key, values, possible in (("mean", average, are_means), ("std", deviation, are_deviations)):
        if not possible(values):
            raise UserError(f"data.{key}: {list(values)} cannot be of images in 0..1; divide it by 255")
    if config.interpolation not in (None, "random"):
        interpolation = config.interpolation
    return ImageSpec(
        size=size,
        channels=channels,
        mean=average,
        std=deviation,
        interpolation=interpolation if interpolation not in (None, "", "random") else "bicubic",
        crop_pct=config.crop_pct or (1.0 if splits.native_size else crop_pct or DEFAULT_CROP_PCT),
        crop_mode=config.crop_mode or crop_mode or DEFAULT_CROP_MODE,
    )


def is_augmented(config: DataConfig, splits: Splits) -> bool:
    """Whether training images differ from epoch to epoch."""
    if config.no_aug:
        return False
    if splits.native_size is None:  # aspect ratios differ: even a crop of everything is placed at random
        return True
    return bool(
        list(config.scale) != [1.0, 1.0] or config.hflip or config.color_jitter or config.auto_augment or config.re_prob
    )


def training_transform(config: DataConfig, spec: ImageSpec) -> Transform:
    """timm's training transform; random, unless `data.no_aug` is set.

    Raises UserError for a `data.scale`, `data.ratio` or `data.auto_augment` that timm cannot use.
    """
    if config.no_aug:
        options: dict[str, Any] = dict(is_training=True, no_aug=True, interpolation=spec.interpolation)
        transform = create_transform(spec.timm_size, mean=spec.mean, std=spec.std, **options)
        return transform if spec.channels == 3 else Compose([Grayscale(), transform])
    crop, augment, finish = _stages(config, spec, spec.mean, spec.std)
    if spec.channels == 3:
        return Compose([crop, augment, finish])
    # Augmentation policies are made for color images; a gray model sees their result in gray.
    crop, augment, _ = _stages(config, spec, spec.mean * 3, spec.std * 3)
    return Compose([crop, augment, Grayscale(), finish])


def _stages(
    config: DataConfig, spec: ImageSpec, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Transform, Transform, Transform]:
    """timm's three stages: crop and flip, color and policies, normalization and erasing."""
    for key, bounds in (("scale", config.scale), ("ratio", config.ratio)):
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] or (key == "scale" and bounds[1] > 1):
            limit = " <= 1" if key == "scale" else ""
            raise UserError(f"data.{key}: must be [low, high] with 0 < low <= high{limit}, not {list(bounds)}")
    options: dict[str, Any] = dict(
        scale=tuple(config.scale),
        ratio=tuple(config.ratio),
        hflip=config.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment or None,
        re_prob=config.re_prob,
        re_mode="pixel",  # as timm's training script and DeiT have it
        interpolation=config.interpolation or spec.interpolation,
    )
    try:
        stages = create_transform(spec.timm_size, is_training=True, separate=True, mean=mean, std=std, **options)
    except Exception as error:  # timm asserts, or indexes what it did not find
        if not config.auto_augment:
            raise
        raise UserError(
            f"data.auto_augment: timm cannot read {config.auto_augment!r} ({error or type(error).__name__});"
            " a valid one is rand-m9-mstd0.5-inc1"
        ) from None
    complete(stages[1])
    return stages
