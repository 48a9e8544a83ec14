"""What a run that continues is told of images that have changed."""

import shutil

from lightning_vitc.data.inventory import change, inventory


def test_what_changed_is_named(vision_data, tree):
    def now() -> dict:
        return inventory(vision_data("folder", root=str(tree)).splits)

    before = now()
    assert {folder: images for folder, (images, _) in before.items()} == {
        "train/cat": 20, "train/dog": 10, "val/cat": 4, "val/dog": 3, "test/cat": 2, "test/dog": 3,
    }  # fmt: skip
    assert change(before, now()) is None
    dog = tree / "train" / "dog" / "dog_5.jpg"
    dog.rename(dog.with_name("renamed.jpg"))
    assert change(before, now()) == "train/dog has 10 images of other names than when the run began"
    dog.with_name("renamed.jpg").unlink()
    assert change(before, now()) == "train/dog has 9 images, it had 10 when the run began"
    for split in ("train", "val", "test"):
        shutil.copytree(tree / split / "cat", tree / split / "emu")
        shutil.copytree(tree / split / "cat", tree / split / "ant")
    assert change(before, now()) == "test/ant has 2 images, it had 0 when the run began"


def test_a_data_set_without_files_has_none(vision_data):
    assert inventory(vision_data("digits").splits) == {}
