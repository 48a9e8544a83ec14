"""The data sets by name, and the checks of `data.root` that need no heavy import.

`vitc list` prints `CATALOG`; the validation of a config calls `check_root`. Neither imports torch.
"""

from dataclasses import dataclass
from pathlib import Path

from lightning_vitc.data.tree import count_classes, holding_images
from lightning_vitc.errors import UserError
from lightning_vitc.schema import DataConfig

EVALUATED = ("val", "validation", "test")  # folders of a tree that are not trained on
TREES = ("folder", "imagenet")  # data sets with a folder a class
CUB_PARTS = ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


@dataclass(frozen=True)
class DatasetInfo:
    """One line on a data set and, where it has files, what stands below `data.root`.

    `expected` names what has to be there: one of the paths of each inner tuple.
    """

    description: str
    layout: str | None = None
    expected: tuple[tuple[str, ...], ...] = ()
    num_classes: int | None = None

    @property
    def needs_root(self) -> bool:
        """Whether `data.root` has to be given."""
        return self.layout is not None


CATALOG: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        "scikit-learn's handwritten digits: 1,797 gray 8x8 images, 10 classes, no download", num_classes=10
    ),
    "glyphs": DatasetInfo(
        "characters in clutter, rendered on the spot: gray 16x16 images, 36 classes, no download", num_classes=36
    ),
    "fake": DatasetInfo("seeded random images of the model's size, for dry runs of big recipes", num_classes=1000),
    "folder": DatasetInfo(
        "images in one folder per class",
        "ROOT/train/CLASS/*, ROOT/val/CLASS/* (or validation), ROOT/test/CLASS/*; val and test are optional",
        (("train",),),
    ),
    "imagenet": DatasetInfo(
        "ImageNet-1k, or any subset of its classes; evaluated on val, as is the custom",
        "ROOT/train/CLASS/*, ROOT/val/CLASS/*",
        (("train",), ("val", "validation")),
    ),
    "cifar10": DatasetInfo(
        "CIFAR-10: 60,000 color 32x32 images, 10 classes",
        "ROOT/cifar-10-batches-bin (the binary version) or ROOT/cifar-10-batches-py",
        (("cifar-10-batches-bin", "cifar-10-batches-py"),),
        10,
    ),
    "cifar100": DatasetInfo(
        "CIFAR-100: 60,000 color 32x32 images, 100 classes",
        "ROOT/cifar-100-binary (the binary version) or ROOT/cifar-100-python",
        (("cifar-100-binary", "cifar-100-python"),),
        100,
    ),
    "flowers102": DatasetInfo(
        "Oxford 102 Flower: 8,189 images, 102 classes",
        "ROOT/flowers-102/jpg/*.jpg, ROOT/flowers-102/imagelabels.mat, ROOT/flowers-102/setid.mat",
        (("flowers-102/jpg",), ("flowers-102/imagelabels.mat",), ("flowers-102/setid.mat",)),
        102,
    ),
    "pets": DatasetInfo(
        "Oxford-IIIT Pet: 7,349 images, 37 classes",
        "ROOT/oxford-iiit-pet/images/*.jpg, ROOT/oxford-iiit-pet/annotations/trainval.txt and test.txt",
        (
            ("oxford-iiit-pet/images",),
            ("oxford-iiit-pet/annotations/trainval.txt",),
            ("oxford-iiit-pet/annotations/test.txt",),
        ),
        37,
    ),
    "cub200": DatasetInfo(
        "CUB-200-2011: 11,788 images of birds, 200 classes",
        "ROOT/CUB_200_2011/images/CLASS/*.jpg, and in ROOT/CUB_200_2011 images.txt, image_class_labels.txt, "
        "train_test_split.txt and classes.txt",
        tuple((f"CUB_200_2011/{name}",) for name in CUB_PARTS),
        200,
    ),
    "indoor67": DatasetInfo(
        "MIT Indoor67: 6,700 images of scenes, 67 classes",
        "ROOT/Images/SCENE/*.jpg, ROOT/TrainImages.txt, ROOT/TestImages.txt",
        (("Images",), ("TrainImages.txt",), ("TestImages.txt",)),
        67,
    ),
}
"""What `data.name` can be."""


def check_root(config: DataConfig, evaluated: bool = False) -> None:
    """Refuse a `data.root` without what the data set expects below it.

    Args:
        config: the `data` section.
        evaluated: nothing is trained: there may be no training images.

    Raises:
        UserError: naming the path.
    """
    info = CATALOG[config.name]
    if not info.needs_root:
        return
    if config.root is None:
        raise UserError(f"data.root: is not set; {config.name} expects {info.layout}")
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"data.root: {root} is not a folder; give data.root=ROOT, {config.name} expects {info.layout}")
    for choices in _expected(config, info, evaluated):
        if not any((root / choice).exists() for choice in choices):
            if config.name in TREES and config.unlabeled is None:
                _refuse_classes(root)
            missing = " nor ".join(str(root / choice) for choice in choices)
            raise UserError(f"data.root: there is no {missing}; {config.name} expects {info.layout}")
    unlabeled = config.unlabeled
    if unlabeled is not None and not evaluated and not Path(unlabeled).is_dir():
        raise UserError(f"data.unlabeled: {unlabeled} is not a folder; it holds the images to train on")


def _refuse_classes(root: Path) -> None:
    """Of a folder tree: two classes are there, and what is missing is the split above them, or it was named itself."""
    splits = ("train", *EVALUATED)
    if any((root / split).is_dir() for split in splits) or len(classes := holding_images(root)) < 2:
        return
    split = root.absolute().name
    if split in splits:
        above = root.parent if root.name else root.absolute().parent
        raise UserError(f"data.root: {root} is the split {split} itself; give the folder above it, data.root={above}")
    raise UserError(
        f"data.root: {root} has class folders ({', '.join(classes)}, ...) but no split; move them into {root}/train"
    )


def _expected(config: DataConfig, info: DatasetInfo, evaluated: bool) -> tuple[tuple[str, ...], ...]:
    if config.unlabeled is not None:
        return (EVALUATED,)  # what is evaluated; nothing of `train` is read
    return (("train", *EVALUATED),) if evaluated and config.name in TREES else info.expected


def class_count(config: DataConfig) -> int | None:
    """The number of classes as far as it is known without reading images; folders are counted where they are."""
    if config.num_classes or CATALOG[config.name].num_classes:
        return config.num_classes or CATALOG[config.name].num_classes
    root = Path(config.root or "")
    names = ("train",) if config.unlabeled is None else EVALUATED
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        return None
    count = count_classes(folder)
    if count == 1:
        raise UserError(f"data.root: {folder} has one class; a classifier needs two or more")
    return count
