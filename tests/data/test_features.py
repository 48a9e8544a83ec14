"""Features of a data set in a file: of every image in its place, or of the one that replaces it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_vitc.data.features import FeatureData
from lightning_vitc.errors import UserError


class Colors(torch.nn.Module):
    """The mean of each channel [B, 1, 3]."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, None]


def prepared(data: FeatureData) -> FeatureData:
    """As Lightning does it."""
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(lightning_module=Colors(), strategy=device, world_size=1, global_rank=0,
                                        current_epoch=0)  # fmt: skip
    data.prepare_data()
    data.setup()
    return data


def test_every_image_is_there_as_an_evaluation_sees_it(tree: Path, vision_data: Any) -> None:
    images = vision_data("folder", root=str(tree), batch_size=4, auto_augment="rand-m9")
    data = prepared(FeatureData(images, tree / "features"))
    for role in ("train", "validation"):
        pairs = [(batch.mean((2, 3)), targets) for batch, targets in images.loader_of(role)]
        means, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        assert torch.equal(data._content[role][:, 0], means)
        assert torch.equal(data._content[f"{role}_targets"], targets)


def test_batches_come_in_the_order_of_the_images(tree: Path, vision_data: Any) -> None:
    images = vision_data("folder", root=str(tree), batch_size=4, no_aug=True, scale=[1.0, 1.0])
    data = prepared(FeatureData(images, tree / "features"))
    targets = torch.cat([batch[1] for batch in images.train_dataloader()])
    assert torch.equal(torch.cat([batch[1] for batch in data.train_dataloader()]), targets)
    assert next(iter(data.train_dataloader()))[0].shape == (4, 1, 3)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_cannot_be_used(tree: Path, vision_data: Any, split: str) -> None:
    """In training the next one takes its place, in evaluation it is left out."""
    (tree / split / "cat" / "cat_1.jpg").write_bytes(b"none")
    raising = FeatureData(vision_data("folder", root=str(tree)), tree / "features")
    with pytest.raises(UserError, match=r"cat_1\.jpg"):
        prepared(raising)
    assert not (tree / "features").exists()
    data = prepared(FeatureData(vision_data("folder", root=str(tree), on_error="skip"), tree / "features"))
    assert [len(data._content[name]) for name in ("train", "validation")] == [30, 7 - (split == "val")]
    assert sum(len(targets) for _, targets in data.val_dataloader()) == 7 - (split == "val")
    if split == "train":
        assert torch.equal(data._content["train"][1], data._content["train"][2])


def test_a_damaged_file_is_one_line(tree: Path, vision_data: Any) -> None:
    (tree / "features").write_bytes(b"none")
    with pytest.raises(UserError, match=r"features: cannot be read \(.*\); remove it, and it is made again$"):
        prepared(FeatureData(vision_data("folder", root=str(tree)), tree / "features"))
