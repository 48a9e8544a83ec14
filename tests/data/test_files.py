"""Data sets of files, read in their real on-disk formats, and what a user is told of broken ones."""

import pickle
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from lightning_vitc.data import folder
from lightning_vitc.data.batches import TransformedBatches
from lightning_vitc.data.catalog import class_count
from lightning_vitc.data.classes import ClassNames
from lightning_vitc.data.sources import FileSource, Split
from lightning_vitc.data.tree import class_folders
from lightning_vitc.errors import UserError


def _disjoint(*splits) -> bool:
    chosen = [index for split in splits for index in split.indices.tolist()]
    return len(chosen) == len(set(chosen))


def _message(action) -> str:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_with_three_splits(vision_data, tree):
    data = vision_data("folder", root=str(tree), batch_size=5)
    assert data.sizes == {"train": 30, "validation": 7, "test": 5}
    assert data.num_classes == 2
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (5, 3, 32, 32)
    assert images.dtype == torch.float32
    assert targets.dtype == torch.int64
    labels = torch.cat([targets for _, targets in data.test_dataloader()])
    assert labels.tolist() == [0, 0, 1, 1, 1]


def test_folder_classes_are_in_the_order_of_image_folder(vision_data, tmp_path, write_tree):
    """Checkpoints of others were trained with it; a name that is a number to some (`5²`) is a name."""
    write_tree(tmp_path / "train", {"10": 3, "2": 4, "1": 5, "07": 6, "7": 7, "5²": 2, "b": 8, "B": 9})
    data = vision_data("folder", root=str(tmp_path), val_fraction=0.4)
    assert list(ImageFolder(tmp_path / "train").class_to_idx) == ["07", "1", "10", "2", "5²", "7", "B", "b"]
    counts = np.bincount(np.concatenate([data.splits.train.targets, data.splits.validation.targets]))
    assert counts.tolist() == [6, 5, 3, 4, 2, 7, 9, 8]


def test_folder_without_test_is_evaluated_on_val(vision_data, tree):
    shutil.rmtree(tree / "test")
    data = vision_data("folder", root=str(tree))
    assert data.sizes == {"train": 30, "validation": 7, "test": 7}
    held = vision_data("folder", root=str(tree), val_fraction=0.2)
    assert held.sizes == {"train": 24, "validation": 6, "test": 7}
    assert _disjoint(held.splits.train, held.splits.validation)
    assert np.bincount(held.splits.validation.targets).tolist() == [4, 2]


def test_folder_without_val_holds_out_of_train(vision_data, tree):
    shutil.rmtree(tree / "val")
    data = vision_data("folder", root=str(tree))
    assert data.sizes == {"train": 27, "validation": 3, "test": 5}
    assert data.train_indices == vision_data("folder", root=str(tree), seed=9).train_indices
    shutil.rmtree(tree / "test")
    assert vision_data("folder", root=str(tree)).sizes == {"train": 27, "validation": 3, "test": 3}


def test_folder_takes_validation_as_a_name(vision_data, tree):
    (tree / "val").rename(tree / "validation")
    assert vision_data("imagenet", root=str(tree)).sizes == {"train": 30, "validation": 7, "test": 5}


def test_only_the_split_that_is_evaluated_is_read(vision_data, tree, monkeypatch):
    """A training set may be large, far away, or broken."""
    scanned = []
    monkeypatch.setattr(folder, "class_folders", lambda place: scanned.append(place.name) or class_folders(place))
    _corrupt(tree / "train" / "cat" / "cat_0.jpg")

    def read(split: str, **keys) -> tuple[dict[str, int], list[str]]:
        scanned.clear()
        classes = ClassNames(("cat", "dog"), "a run", partial=True)
        data = vision_data("folder", {"classes": classes}, root=str(tree), **keys)
        data.read_only(split)
        data.setup()
        return data.sizes, scanned.copy()

    nothing = {"train": 0, "validation": 0, "test": 0}
    assert read("test") == (nothing | {"test": 5}, ["test"])
    assert read("validation") == (nothing | {"validation": 7}, ["val"])
    assert read("test", unlabeled=str(tree)) == (nothing | {"test": 5}, ["test"])
    assert read("validation", unlabeled=str(tree)) == (nothing | {"validation": 7}, ["val"])
    shutil.rmtree(tree / "test")
    assert read("test") == (nothing | {"validation": 7, "test": 7}, ["val"])
    shutil.copy(tree / "train" / "cat" / "cat_1.jpg", tree / "train" / "cat" / "cat_0.jpg")
    sizes, places = read("validation", val_fraction=0.2)  # held out of train
    assert (sizes["validation"], places) == (6, ["train"])
    shutil.rmtree(tree / "val")
    sizes, places = read("test")
    assert (sizes["test"], places) == (3, ["train"])


def test_unlabeled_images_take_the_place_of_train(vision_data, tree, write_tree):
    keys = dict(root=str(tree), unlabeled=str(tree / "photos"), num_samples=6, few_shot=True, balanced=False)
    assert _message(lambda: vision_data("folder", **keys).setup()) == (
        f"data.unlabeled: {tree}/photos is not a folder; it holds the images to train on"
    )
    (tree / "photos").mkdir()
    assert _message(lambda: vision_data("folder", **keys).setup()).startswith(
        f"data.unlabeled: {tree}/photos has no images (.jpg"
    )
    write_tree(tree / "photos" / "2021", {"summer": 5})
    write_tree(tree / "photos", {"2022": 4})
    shutil.copy(tree / "val" / "cat" / "cat_0.jpg", tree / "photos" / "top.jpg")
    shutil.rmtree(tree / "train")
    data = vision_data("folder", **keys)
    assert (data.sizes, data.num_classes) == ({"train": 6, "validation": 7, "test": 5}, 2)
    source = data.splits.train.source
    assert {Path(source.path(index)).relative_to(tree).parts[0] for index in range(10)} == {"photos"}
    assert class_count(data.config) == 2
    shutil.rmtree(tree / "test")
    assert vision_data("imagenet", **keys).sizes == {"train": 6, "validation": 7, "test": 7}
    shutil.rmtree(tree / "val")
    assert _message(lambda: vision_data("folder", **keys).setup()).startswith(f"data.root: there is no {tree}/val nor ")


def test_folder_says_that_val_fraction_is_ignored(vision_data, tree):
    with pytest.warns(UserWarning, match="data.val_fraction is ignored"):
        vision_data("folder", root=str(tree), val_fraction=0.2).setup()


def test_empty_and_different_class_folders(vision_data, tree):
    def setup():
        vision_data("folder", root=str(tree)).setup()

    (tree / "val" / "emu").mkdir()
    assert _message(setup) == f"data.root: {tree}/val has the class folder 'emu' that {tree}/train lacks"
    (tree / "train" / "emu").mkdir()
    assert _message(setup).startswith(f"data.root: the class folder {tree}/train/emu has no images (.jpg")
    shutil.rmtree(tree / "train" / "emu")
    shutil.rmtree(tree / "val" / "emu")
    shutil.rmtree(tree / "val" / "dog")
    assert _message(setup) == f"data.root: {tree}/val lacks the class folder 'dog' that {tree}/train has"
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()
    assert _message(setup) == f"data.root: {tree}/train has no class folders; expected {tree}/train/CLASS/image.jpg"


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(vision_data, cifar, name, num_classes, version):
    root = cifar(num_classes, version)
    data = vision_data(name, root=str(root), batch_size=10)
    assert data.num_classes == num_classes
    if num_classes == 10:
        assert data.sizes == {"train": 90, "validation": 10, "test": 20}
    else:
        assert data.sizes == {"train": 100, "validation": 100, "test": 200}  # of two each, one
    assert _disjoint(data.splits.train, data.splits.validation)
    random = np.random.RandomState(5 if num_classes == 10 else 1)  # as the fixture wrote the test images
    pixels = random.randint(0, 256, (20 if num_classes == 10 else 200, 3, 32, 32)).astype(np.uint8)
    assert np.array_equal(data.splits.test.source.images.numpy(), pixels)
    assert data.splits.test.targets.tolist()[:12] == [(index % num_classes) for index in range(12)]


class _Forged:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_cifar_runs_no_code_of_a_pickle(vision_data, cifar, capsys):
    root = cifar(100, "python")
    path = root / "cifar-100-python" / "train"
    path.write_bytes(pickle.dumps({"data": _Forged(), "fine_labels": [1]}, protocol=2))
    message = _message(vision_data("cifar100", root=str(root)).setup)
    assert message == f"data.root: cannot read {path}: __builtin__.print is not allowed in a CIFAR file"
    assert capsys.readouterr().out == ""


def test_broken_cifar(vision_data, cifar):
    root = cifar(10, "binary")
    folder = root / "cifar-10-batches-bin"
    (folder / "data_batch_2.bin").write_bytes(b"\x01" * 5000)
    assert _message(vision_data("cifar10", root=str(root)).setup).startswith(
        f"data.root: cannot read {folder}/data_batch_2.bin: "
    )
    (folder / "data_batch_2.bin").write_bytes(b"\x0b" * 3073)
    assert _message(vision_data("cifar10", root=str(root)).setup) == (
        f"data.root: {folder}/data_batch_2.bin does not hold CIFAR-10 images and labels"
    )
    (folder / "data_batch_2.bin").unlink()
    assert _message(vision_data("cifar10", root=str(root)).setup) == f"data.root: {folder}/data_batch_2.bin is missing"


def test_flowers(vision_data, flowers):
    data = vision_data("flowers102", root=str(flowers), batch_size=3)
    assert data.num_classes == 102
    assert data.sizes == {"train": 3, "validation": 3, "test": 6}
    assert data.splits.train.targets.tolist() == [76, 0, 101]
    assert data.splits.validation.targets.tolist() == [101, 0, 76]
    assert data.splits.test.targets.tolist() == [76, 76, 0, 0, 101, 101]
    assert data.splits.train.source.path(1).endswith("flowers-102/jpg/image_00005.jpg")
    assert next(iter(data.test_dataloader()))[0].shape == (3, 3, 32, 32)


def test_broken_flowers(vision_data, flowers):
    path = flowers / "flowers-102" / "setid.mat"
    path.write_bytes(b"nothing")
    message = _message(vision_data("flowers102", root=str(flowers)).setup)
    assert message.startswith(f"data.root: cannot read 'trnid' of {path}: ")


def test_pets(vision_data, pets):
    data = vision_data("pets", root=str(pets), batch_size=2, val_fraction=0.2)
    assert data.num_classes == 37
    assert data.sizes == {"train": 16, "validation": 4, "test": 4}
    assert set(data.splits.train.targets) == {0, 36}
    assert np.bincount(data.splits.validation.targets)[[0, 36]].tolist() == [2, 2]
    assert next(iter(data.test_dataloader()))[0].shape == (2, 3, 32, 32)


def test_broken_pets(vision_data, pets):
    listing = pets / "oxford-iiit-pet" / "annotations" / "test.txt"
    listing.write_text("Abyssinian_1\n")
    assert _message(vision_data("pets", root=str(pets)).setup) == (
        f"data.root: {listing} must have lines `NAME CLASS SPECIES BREED`"
    )


def test_cub(vision_data, cub):
    data = vision_data("cub200", root=str(cub), batch_size=2, val_fraction=0.25)
    assert data.num_classes == 200
    assert data.sizes == {"train": 12, "validation": 4, "test": 8}
    assert np.bincount(data.splits.train.targets)[[0, 199]].tolist() == [6, 6]
    assert data.splits.test.targets.tolist() == [199, 0] * 4  # images 3, 6, 9, ...
    path = data.splits.test.source.path(data.splits.test.indices[1])
    assert path == f"{cub}/CUB_200_2011/images/001.Black_footed_Albatross/bird_6.jpg"
    assert next(iter(data.test_dataloader()))[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("images", "1", "must have lines `NUMBER VALUE`, each number once; line 1 is '1'"),
        ("images", "2 a/b.jpg", "must have lines `NUMBER VALUE`, each number once; line 2 is '2 001.Black"),
        ("train_test_split", "25 1", "numbers other images than CUB/images.txt"),
        ("train_test_split", "1 2", "must have values from 0 to 1, not '2'"),
        ("image_class_labels", "1 201", "must have values from 1 to 200, not '201'"),
        ("classes", "201 x", "must name the classes 1..200, one a line, in their order"),
    ],
)
def test_broken_cub(vision_data, cub, name, line, said):
    """The first line of a list is another one."""
    path = cub / "CUB_200_2011" / f"{name}.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    message = _message(vision_data("cub200", root=str(cub)).setup)
    assert message.startswith(f"data.root: {path} {said.replace('CUB', str(path.parent))}")


def test_indoor(vision_data, indoor):
    data = vision_data("indoor67", root=str(indoor), batch_size=2, val_fraction=0.2)
    assert data.num_classes == 67
    assert data.sizes == {"train": 16, "validation": 4, "test": 4}
    assert data.splits.test.targets.tolist() == [0, 66, 0, 66]
    assert data.splits.test.source.path(1) == f"{indoor}/Images/winecellar/TestImages 1.jpg"
    assert next(iter(data.test_dataloader()))[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("line", ["airport/1.jpg", "bar", "bar/"])
def test_broken_indoor(vision_data, indoor, line):
    (indoor / "TestImages.txt").write_text(f"bakery/1.jpg\n{line}\n")
    assert _message(vision_data("indoor67", root=str(indoor)).setup) == (
        f"data.root: {indoor}/TestImages.txt must have lines `SCENE/IMAGE`, not {line!r}; Indoor67 has 67 scenes"
    )


def _corrupt(path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def test_the_first_image_is_decoded_at_setup(vision_data, tree):
    _corrupt(tree / "test" / "cat" / "cat_0.jpg")
    message = _message(vision_data("folder", root=str(tree)).setup)
    assert message.startswith(f"data.root: cannot read the image {tree}/test/cat/cat_0.jpg (")
    assert message.endswith("; replace it, or set data.on_error=skip")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named(vision_data, tree, num_workers):
    path = tree / "train" / "dog" / "dog_5.jpg"
    _corrupt(path)
    data = vision_data("folder", root=str(tree), batch_size=30, num_workers=num_workers)
    message = _message(lambda: list(data.train_dataloader()))
    assert message.startswith(f"data.root: cannot read the image {path} (")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unusable_images_are_left_out_of_evaluation(vision_data, tree, num_workers):
    for number in (1, 2):
        _corrupt(tree / "test" / "dog" / f"dog_{number}.jpg")
    keys = dict(root=str(tree), on_error="skip", batch_size=2, num_workers=num_workers)
    loader = vision_data("folder", **keys).test_dataloader()
    path = tree / "test" / "dog" / "dog_1.jpg"
    with pytest.warns(UserWarning, match=rf"^2 images cannot be used and are left out .*, among them {path}$"):
        batches = list(loader)
    assert [targets.tolist() for _, targets in batches] == [[0, 0], [1]]  # of the third batch nothing is left
    assert loader.unusable == {str(path), str(path).replace("dog_1", "dog_2")}
    assert len(vision_data("folder", **keys).images_of("test")) == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unusable_images_are_replaced_in_training(vision_data, tree, num_workers):
    for number in (3, 4):
        _corrupt(tree / "train" / "cat" / f"cat_{number}.jpg")
    keys = dict(root=str(tree), on_error="skip", batch_size=30, no_aug=True, num_workers=num_workers)
    data = vision_data("folder", **keys)
    loader = data.train_dataloader()
    path = tree / "train" / "cat" / "cat_3.jpg"
    with pytest.warns(UserWarning, match=rf"^2 images cannot be used and are replaced .*, among them {path}$"):
        ((images, targets),) = list(loader)
    paths = [Path(data.splits.train.source.path(index)).name for index in range(30)]
    assert targets.tolist().count(0) == 20
    order = [index for index, _ in next(iter(loader.order))]
    third, fourth, fifth = (order.index(paths.index(f"cat_{number}.jpg")) for number in (3, 4, 5))
    assert torch.equal(images[third], images[fifth])
    assert torch.equal(images[fourth], images[fifth])


class _FailsOn:
    """A transform that cannot deal with an image as tall as this."""

    def __init__(self, height: int) -> None:
        self.height = height

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if image.height == self.height:
            raise ValueError("bits must be between\nor equal to 1 and 8")
        return torch.full((3, 2, 2), float(image.height))


@pytest.fixture
def tall(tmp_path) -> Split:
    """Images of the heights 1 to 4, one of which _FailsOn."""
    names = [f"{height}.png" for height in range(1, 5)]
    for height, name in enumerate(names, 1):
        Image.new("RGB", (4, height)).save(tmp_path / name)
    return Split.whole(FileSource(tmp_path, names, np.arange(4)))


def test_a_transform_that_fails_is_one_line_with_the_path(tall, tmp_path):
    keys = [(index, 0) for index in range(4)]
    fetched = TransformedBatches(tall, _FailsOn(2)).__getitems__(keys)
    assert fetched.images is None
    assert fetched.error == (
        f"data: cannot transform the image {tmp_path}/2.png (bits must be between or equal to 1 and 8);"
        " replace it, or set data.on_error=skip"
    )
    left = TransformedBatches(tall, _FailsOn(2), on_unusable="leave_out").__getitems__(keys)
    assert (left.images[:, 0, 0, 0].tolist(), left.targets.tolist()) == ([1, 3, 4], [0, 2, 3])
    assert left.unusable == (f"{tmp_path}/2.png",)
    replaced = TransformedBatches(tall, _FailsOn(4), seed=0, on_unusable="replace").__getitems__(keys)
    assert (replaced.images[:, 0, 0, 0].tolist(), replaced.targets.tolist()) == ([1, 2, 3, 1], [0, 1, 2, 0])


def test_a_draw_that_fails_is_not_drawn_again(tall):
    """An image that replaces another has random numbers of its own: it is no victim of the same draw."""
    drawn = []

    def transform(image: Image.Image) -> torch.Tensor:
        drawn.append(random.random())
        if len(drawn) == 1:
            raise ValueError
        return torch.zeros(1)

    TransformedBatches(tall, transform, seed=0, on_unusable="replace").__getitems__([(0, 0)])
    assert drawn[0] != drawn[1]


def test_nothing_readable_is_an_error_even_with_skip(vision_data, tree):
    for path in (tree / "val").rglob("*.jpg"):
        _corrupt(path)
    message = _message(vision_data("folder", root=str(tree), on_error="skip").setup)
    assert message == "data.root: none of the 7 images of the validation split can be read; replace them"


def test_a_bomb_and_a_broken_png_are_unreadable_images_too(vision_data, tree):
    Image.new("L", (4, 4)).save(tree / "train" / "cat" / "big.png")
    data = bytearray((tree / "train" / "cat" / "big.png").read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    (tree / "train" / "cat" / "big.png").write_bytes(bytes(data))
    message = _message(vision_data("folder", root=str(tree)).setup)  # big.png sorts first
    assert "big.png" in message


def test_exif_is_a_key(vision_data, tree):
    assert vision_data("folder", root=str(tree), exif=True).splits.test.source.exif
    assert not vision_data("folder", root=str(tree)).splits.test.source.exif
