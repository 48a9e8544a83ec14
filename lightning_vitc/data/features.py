"""Batches of what a classifier reads, in the place of images: computed once, before the training of a classifier."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import Dataset

from lightning_vitc.data.batches import Fetched
from lightning_vitc.data.loader import ImageLoader
from lightning_vitc.data.module import VisionData
from lightning_vitc.data.sampler import ShardBatchSampler
from lightning_vitc.data.sources import Split, Splits
from lightning_vitc.data.transforms import ImageSpec
from lightning_vitc.errors import UserError
from lightning_vitc.files.atomic import write_atomically

Features = Callable[[Tensor], Tensor]


class FeatureBatches(Dataset[Fetched]):
    """Rows of features [N, ...] with their targets [N]."""

    def __init__(self, features: Tensor, targets: Tensor):
        self._features, self._targets = features, targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitems__(self, keys: list[tuple[int, ...]]) -> Fetched:
        """The batch of some keys, whose epoch does not matter."""
        rows = [key[0] for key in keys]
        return Fetched(self._features[rows], self._targets[rows])


class FeatureData(VisionData):
    """The training and validation images of a data set as features, in the order in which the images would come.

    The images are seen as in an evaluation, once; the next one takes the place of a training image that cannot be used,
    for the order of batches counts on every one. The first process computes the features of the module that is to be
    trained, which offers `features(images)`, and writes them into a file; all processes read it. Labels are smoothed as
    those of images, and not mixed.

    Args:
        data: the images.
        file: of the features; it is made if it is not there.
    """

    prepare_data_per_node = False  # the file is where the run is

    def __init__(self, data: VisionData, file: Path):
        config = replace(data.config, mixup=0.0, cutmix=0.0, repeated_aug=False)
        super().__init__(config, img_size=data._size, in_chans=data.in_chans, seed=data.seed,
                         accumulate=data.accumulate)  # fmt: skip
        self.images, self.file = data, file

    def prepare_data(self) -> None:
        """Compute what is not there, on the device of the training."""
        if self.file.is_file():
            return
        trainer: Any = self.trainer
        module, device = trainer.lightning_module, trainer.strategy.root_device
        before = module.training
        module.to(device).eval()
        content: dict[str, Tensor] = {}
        for role in ("train", "validation"):
            content |= self._computed(role, lambda images: module.features(images.to(device)).cpu())
        module.train(before)
        write_atomically(self.file, save(content))

    @property
    def splits(self) -> Splits:  # type: ignore[override]
        """Those of the images."""
        return self.images.splits

    @property
    def spec(self) -> ImageSpec:  # type: ignore[override]
        """That of the images."""
        return self.images.spec

    def remove(self) -> None:
        """The file, when no training needs it any more."""
        self.file.unlink(missing_ok=True)

    def setup(self, stage: str | None = None) -> None:
        """Read them."""
        _ = self._content

    @cached_property
    def _content(self) -> dict[str, Tensor]:
        try:
            return load_file(self.file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.file}: cannot be read ({error}); remove it, and it is made again") from None

    @torch.no_grad()
    def _computed(self, role: str, features: Features) -> dict[str, Tensor]:
        split: Split = getattr(self.splits, role)
        if not len(split):
            return {}
        images = self._evaluation_batches(split, "replace" if role == "train" else "leave_out")
        batches = ShardBatchSampler(len(split), batch_size=self.config.eval_batch_size or self.config.batch_size)
        pairs = [(features(images), targets) for images, targets in ImageLoader(images, batches, **super()._options)]
        found, targets = zip(*pairs, strict=True)
        return {role: torch.cat(found), f"{role}_targets": torch.cat(targets)}

    @property
    def _options(self) -> dict[str, Any]:
        return super()._options | {"num_workers": 0}

    def _training_batches(self) -> Any:
        return self._batches_of("train")

    def _evaluation_loader(self, split: Split) -> ImageLoader:
        batches: Any = self._batches_of("validation")
        return ImageLoader(batches, self._shard(batches, *self._place), **self._options)

    def _batches_of(self, role: str) -> FeatureBatches:
        return FeatureBatches(self._content[role], self._content[f"{role}_targets"])
