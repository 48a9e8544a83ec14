"""The section `data`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lightning_vitc.schema.fields import MISSING, bounded, path, rule


def are_means(values: Sequence[float]) -> bool:
    """Whether these can be the means of images whose pixels are in 0..1."""
    return all(0 <= value <= 1 for value in values)


def are_deviations(values: Sequence[float]) -> bool:
    """The same of standard deviations; 1 leaves the images as they are, as some models want them."""
    return all(0 < value <= 1 for value in values)


@dataclass
class DataConfig:
    """A data set, how it is split, augmented and loaded."""

    name: Literal[
        "digits", "glyphs", "fake", "folder", "imagenet", "cifar10", "cifar100", "flowers102", "pets",
        "cub200", "indoor67",
    ] = MISSING  # fmt: skip
    root: str | None = path(None)  # where the files are, for data sets that have files
    unlabeled: str | None = path(None)  # a folder of images to train on, of `folder` and `imagenet`; `root` evaluates
    classes: str | None = path(None)  # a file of class names, one a line, that orders the folders; default: `sorted`
    batch_size: int = bounded(128, gt=0)  # images per optimizer step, over all processes and accumulation
    eval_batch_size: int | None = bounded(None, gt=0)  # images per process; default: as in training
    num_workers: int = bounded(0, ge=0)
    pin_memory: bool = True  # used where there is a GPU
    num_classes: int | None = bounded(None, gt=1)  # `fake` and `glyphs`; others know theirs
    num_samples: int | None = bounded(None, gt=0)  # training images: size of `fake`/`glyphs`, subset of others
    few_shot: bool = False  # draw `num_samples` training images by seed, stored as an index list in the run
    balanced: bool = True  # few-shot images of every class alike; false: any, no label is read
    val_fraction: float | None = bounded(None, gt=0, lt=1)  # of training, held out where no split is given (0.1)
    on_error: Literal["raise", "skip"] = "raise"  # an image that cannot be used: left out of evaluation
    exif: bool = False  # turn images as cameras noted it; torchvision and timm do not
    # Augmentation, timm's names
    no_aug: bool = False
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333333333333])
    hflip: float = bounded(0.5, ge=0, le=1)
    color_jitter: float | None = bounded(None, ge=0)
    auto_augment: str | None = None
    repeated_aug: bool = False  # DeiT's: a batch holds every image thrice, an epoch a third of them
    re_prob: float = bounded(0.0, ge=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "nearest", "random"] | None = None  # default: the model's
    crop_pct: float | None = bounded(None, gt=0, le=1)  # default: the model's; 1 for digits, glyphs and CIFAR
    crop_mode: Literal["center", "squash", "border"] | None = None  # default: the model's
    mean: list[float] | None = field(  # of pixels in 0..1; default: the model's
        default=None, metadata=rule("a list of numbers from 0 to 1, as pixels are scaled to 0..1 first", are_means)
    )
    std: list[float] | None = field(
        default=None,
        metadata=rule("a list of numbers from above 0 to 1, as pixels are scaled to 0..1 first", are_deviations),
    )
    mixup: float = bounded(0.0, ge=0)
    cutmix: float = bounded(0.0, ge=0)
    mixup_prob: float = bounded(1.0, ge=0, le=1)
    switch_prob: float = bounded(0.5, ge=0, le=1)  # of CutMix, where both are on
    smoothing: float = bounded(0.0, ge=0, lt=1)
