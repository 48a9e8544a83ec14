"""The data module: splits, batches, augmentation and mixing for a Trainer."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_vitc.data.batches import OnUnusable, TensorBatches, TransformedBatches
from lightning_vitc.data.classes import ClassNames, read_class_file
from lightning_vitc.data.loader import ImageLoader, ResumableLoader
from lightning_vitc.data.mixing import BatchMixer
from lightning_vitc.data.sampler import REPEATS, EpochBatchSampler, ShardBatchSampler
from lightning_vitc.data.sources import ROLES, ArraySource, Split, Splits
from lightning_vitc.data.splits import build_splits
from lightning_vitc.data.transforms import image_spec, is_augmented, training_transform
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.files.records import sealed
from lightning_vitc.images.decoding import UnusableImageError
from lightning_vitc.images.preprocessing import ImageSpec, evaluation_transform
from lightning_vitc.schema import DataConfig


class VisionData(LightningDataModule):
    """Batches (images float32 [B, in_chans, H, W], normalized; targets int64 [B]) of the configured data set.

    A training batch that has been moved to its device is mixed (`data.mixup`, `data.cutmix`) and its
    targets become float32 [B, num_classes] if mixing or `data.smoothing` is on.

    Everything random is a function of (seed, epoch, image) or (seed, epoch, step), so training sees the same
    images for any number of workers and processes, and after an interruption. Wants
    `Trainer(use_distributed_sampler=False)` and, as `accumulate`, the number of batches per optimizer step.

    Args:
        config: The `data` section.
        img_size: The model's input size, one integer or (height, width).
        in_chans: The model's input channels, 1 or 3.
        mean, std, interpolation, crop_pct, crop_mode: The model's, from `timm.data.resolve_data_config`; the
            config wins.
        exif: Whether the model, compressed before, was trained on images that are turned as `data.exif` turns them.
        seed: The run's seed: order, augmentation, mixing and few-shot subsets. Splits do not depend on it.
        accumulate: Batches per optimizer step and process; `data.batch_size` counts the images of them all.
        classes: Those it must have; default: the data set's own, in the order of `data.classes` where that is given.

    Raises:
        UserError: From `setup` or the loaders, for data that is missing, broken or does not fit the config.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        img_size: int | tuple[int, int],
        in_chans: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        exif: bool = False,
        seed: int = 0,
        accumulate: int = 1,
        classes: ClassNames | None = None,
    ) -> None:
        super().__init__()
        self.config = replace(config, exif=True) if exif else config
        self.in_chans = in_chans
        self.seed = seed
        self.accumulate = accumulate
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self._size = (height, width)
        self._model_says: dict[str, Any] = dict(
            mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode
        )
        self._known = classes
        self._only: str | None = None
        self._train_loader: ResumableLoader | None = None

    # What the data set is

    @cached_property
    def splits(self) -> Splits:
        """The splits, read when they are first wanted."""
        known, file = self._known, self.config.classes
        if known is None and file is not None:
            known = ClassNames(read_class_file(file), file, "data.classes")
        splits = build_splits(self.config, self._size, self.seed, known, self._only)
        for role in ROLES if self._only is None else (self._only,):
            self._check_readable(getattr(splits, role), splits.name_of(role))
        return splits

    def read_only(self, split: str) -> None:
        """Read no other split than `train`, `validation` or `test`, unless all have been read: to evaluate on it."""
        self._only = split

    @cached_property
    def spec(self) -> ImageSpec:
        """Size, channels, normalization, interpolation and crop of the tensors."""
        return image_spec(self.config, self.splits, size=self._size, channels=self.in_chans, **self._model_says)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; reads the data set if they are not known and that has not happened."""
        return self.splits.classes if self._known is None else self._known.names

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def sizes(self) -> dict[str, int]:
        """Images of `train`, `validation` and `test`."""
        return {name: len(getattr(self.splits, name)) for name in ROLES}

    @property
    def evaluation_split(self) -> str:
        """The split that the final numbers are of: `test`, or what serves where there is none."""
        return self.splits.evaluated

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images of every split by its true name and, where they have labels, how many classes they are of."""
        found = {}
        for role, size in self.sizes.items():
            found[self.splits.name_of(role)] = count = {"images": size}
            if role != "train" or self.config.unlabeled is None:
                count["classes"] = len(np.unique(getattr(self.splits, role).targets))
        return found

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes an input at evaluation, in timm's words and `exif`: what a model card has to say."""
        return {
            "input_size": [self.spec.channels, *self.spec.size],
            "mean": list(self.spec.mean),
            "std": list(self.spec.std),
            "interpolation": self.spec.interpolation,
            "crop_pct": self.spec.crop_pct,
            "crop_mode": self.spec.crop_mode,
            "exif": self.config.exif,
        }

    @property
    def train_indices(self) -> list[int]:
        """The training images, as positions in the data set's own list (before anything was held out)."""
        return self.splits.train.indices.tolist()

    def save_subset(self, path: str | Path) -> None:
        """Writes `train_indices` and how they were drawn as JSON."""
        drawn = dict(
            name=self.config.name,
            num_samples=len(self.splits.train),
            seed=self.seed if self.config.few_shot else None,
            indices=self.train_indices,
        )
        write_atomically(Path(path), (json.dumps(sealed(drawn)) + "\n").encode())

    # Lightning's hooks

    def setup(self, stage: str | None = None) -> None:
        """Reads the data set and checks that an image of every split can be decoded."""
        _ = self.spec

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled global batches of `data.batch_size`, cut over the processes; resumable in mid-epoch."""
        order, trainer = self._order(*self._place), self.trainer
        epoch = None if trainer is None else lambda: trainer.current_epoch
        self._train_loader = ResumableLoader(self._training_batches(), order, epoch=epoch, **self._options)
        return self._train_loader

    def val_dataloader(self) -> ImageLoader:
        """The validation split, for model selection."""
        return self.loader_of("validation")

    def test_dataloader(self) -> ImageLoader:
        """The evaluation split, for the final numbers."""
        return self.loader_of("test")

    def loader_of(self, split: str) -> ImageLoader:
        """Every image of `train`, `validation` or `test` once, in order and without augmentation."""
        part: Split = getattr(self.splits, split)
        if not len(part):
            raise UserError(f"data.root: {self.config.root} has no images of the {split} split")
        return self._evaluation_loader(part)

    def images_of(self, split: str) -> Tensor:
        """Every image of a split [N, C, H, W] as `loader_of` shows them, in every process all of them."""
        return self._read(getattr(self.splits, split))

    def spread_images(self, split: str, count: int) -> Tensor:
        """So many images of a split, evenly spread over it, or all that it has: [N, C, H, W], as `images_of`."""
        part: Split = getattr(self.splits, split)
        count = min(count, len(part))
        return self._read(part.take(np.arange(count) * len(part) // count))

    def spread_batches(self, split: str, count: int) -> Iterator[Tensor]:
        """The same in batches of `data.batch_size`, without a smaller last one where there are others."""
        part: Split = getattr(self.splits, split)
        count = min(count, len(part))
        count -= count % self.config.batch_size if count > self.config.batch_size else 0
        return self._batches(part.take(np.arange(count) * len(part) // count))

    def _read(self, part: Split) -> Tensor:
        return torch.cat(list(self._batches(part)))

    def _batches(self, part: Split) -> Iterator[Tensor]:
        whole = ShardBatchSampler(len(part), batch_size=self.config.batch_size)
        return (images for images, _ in ImageLoader(self._evaluation_batches(part), whole, **self._options))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mixes training batches, on their device; leaves the others alone."""
        if self.trainer is None or not self.trainer.training or not self.mixer.softens or self._train_loader is None:
            return batch
        return self.mix(*batch)

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes the batch that the training loader gave last, by its (epoch, step, slot).

        The slot tells the parts of a global batch apart, over processes and accumulated batches.
        """
        assert self._train_loader is not None
        epoch, taken = self._train_loader.position
        return self.mixer(images, targets, epoch, *self._train_loader.order.slot(taken - 1))

    def batch_counts(self, world_size: int) -> dict[str, int]:
        """Batches of an epoch of `train`, `val` and `test` in each of so many processes."""
        splits = {"val": self.splits.validation, "test": self.splits.test}
        shards = {name: len(self._shard(split, world_size, 0)) for name, split in splits.items()}
        return {"train": len(self._order(world_size, 0)), **shards}

    def smallest_batch(self, world_size: int) -> int:
        """Images of the smallest training batch of each of so many processes."""
        return self._order(world_size, 0).smallest

    # How it is done

    @cached_property
    def mixer(self) -> BatchMixer:
        """Mixup, CutMix and label smoothing, as configured."""
        return BatchMixer(
            num_classes=self.num_classes,
            mixup_alpha=self.config.mixup,
            cutmix_alpha=self.config.cutmix,
            prob=self.config.mixup_prob,
            switch_prob=self.config.switch_prob,
            smoothing=self.config.smoothing,
            seed=self.seed,
        )

    @property
    def _place(self) -> tuple[int, int]:
        """World size and rank."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    @property
    def _options(self) -> dict[str, Any]:
        return dict(num_workers=self.config.num_workers, pin_memory=self.config.pin_memory)

    @property
    def _skip(self) -> bool:
        return self.config.on_error == "skip"

    def _training_batches(self) -> TensorBatches | TransformedBatches:
        augmented = is_augmented(self.config, self.splits)
        if isinstance(self.splits.train.source, ArraySource) and not augmented:
            return TensorBatches(self.splits.train, self.spec)
        transform = training_transform(self.config, self.spec)
        seed = self.seed if augmented else None
        on_unusable: OnUnusable = "replace" if self._skip else "raise"
        return TransformedBatches(self.splits.train, transform, seed=seed, on_unusable=on_unusable)

    def _order(self, world_size: int, rank: int) -> EpochBatchSampler:
        return EpochBatchSampler(
            len(self.splits.train),
            batch_size=self.config.batch_size,
            seed=self.seed,
            world_size=world_size,
            rank=rank,
            accumulate=self.accumulate,
            reshuffle=not getattr(self.trainer, "overfit_batches", 0),  # to overfit is to repeat some batches
            partial=self.config.few_shot,  # of a few images every one counts
            repeats=REPEATS if self.config.repeated_aug else 1,
        )

    def _shard(self, split: Split, world_size: int, rank: int) -> ShardBatchSampler:
        size = self.config.eval_batch_size or max(self.config.batch_size // (world_size * self.accumulate), 1)
        return ShardBatchSampler(len(split), batch_size=size, world_size=world_size, rank=rank)

    def _evaluation_loader(self, split: Split) -> ImageLoader:
        return ImageLoader(self._evaluation_batches(split), self._shard(split, *self._place), **self._options)

    def _evaluation_batches(
        self, split: Split, unusable: OnUnusable = "leave_out"
    ) -> TensorBatches | TransformedBatches:
        if isinstance(split.source, ArraySource) and self.spec.shows_the_whole:
            return TensorBatches(split, self.spec)
        on_unusable = unusable if self._skip else "raise"  # a replacement would count twice
        return TransformedBatches(split, evaluation_transform(self.spec), on_unusable=on_unusable)

    def _check_readable(self, split: Split, name: str) -> None:
        """Decodes the first image, so that a broken data set is found before anything is trained."""
        for row in split.indices if self._skip else split.indices[:1]:
            try:
                split.source.load(int(row))
            except UnusableImageError:
                if not self._skip:
                    raise
            else:
                return
        if len(split):
            images = counted(len(split), "image")
            raise UserError(f"data.root: none of the {images} of the {name} split can be read; replace them")
