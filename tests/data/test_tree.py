"""Which folders are classes and which files images, the same for all who count: plans, trainings, latency caches."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lightning_vitc.data.catalog import class_count
from lightning_vitc.data.tree import count_classes, image_files
from lightning_vitc.errors import UserError


@pytest.fixture
def littered(tree: Path) -> Path:
    """The tree with what disks and archives leave in one."""
    cat = tree / "train" / "cat"
    for hidden in (tree / "train" / ".cache", cat / ".thumbnails", tree / "val" / "._dog"):
        hidden.mkdir()
        shutil.copy(cat / "cat_0.jpg", hidden)
    for name in ("._cat_0.jpg", ".hidden.png", "notes.txt", "more.TXT", "photo.heic", "LICENSE"):
        (cat / name).write_bytes(b"no image")
    shutil.copy(cat / "cat_0.jpg", tree / "train" / "astray.jpg")
    (cat / "again").symlink_to(cat)
    (cat / "up").symlink_to(tree / "train")
    (tree / "album").mkdir()
    Image.new("RGB", (4, 4)).save(tree / "album" / "linked.png")
    for name in ("first", "second"):
        (cat / name).symlink_to(tree / "album")
    return tree


def test_hidden_files_and_loops_count_nowhere(vision_data, littered):
    data = vision_data("folder", root=str(littered))
    with pytest.warns(UserWarning, match="are ignored") as caught:
        assert data.sizes == {"train": 31, "validation": 7, "test": 5}  # and the image of the album, once
    assert data.counts["train"] == {"images": 31, "classes": 2}
    assert class_count(data.config) == data.num_classes == 2
    names = list(data.splits.train.source.names)
    assert [name for name in names if name.count("/") > 1] == ["cat/first/linked.png"]
    (message,) = [str(warning.message) for warning in caught if "ignored" in str(warning.message)]
    assert message.startswith(
        f"data.root: 5 files of {littered} are ignored: 2 .txt, 1 .heic, 1 outside of a class folder, 1 without "
        "a suffix; images are .jpg .jpeg"
    )


def test_an_unreadable_hidden_image_is_never_opened(vision_data, littered):
    loader = vision_data("folder", root=str(littered), batch_size=30, no_aug=True).train_dataloader()
    assert len(next(iter(loader))[1]) == 30


def test_hidden_folders_of_unlabeled_images_are_skipped(littered):
    assert len(image_files(littered / "train", Counter())) == 32  # the one astray too: here nothing has a class


def test_an_empty_class_folder_is_refused_by_a_plan_as_by_a_training(vision_data, tree):
    (tree / "train" / "emu" / ".hidden").mkdir(parents=True)
    (tree / "train" / "emu" / "._emu.jpg").write_bytes(b"")
    messages = []
    for count in (lambda: count_classes(tree / "train"), vision_data("folder", root=str(tree)).setup):
        with pytest.raises(UserError) as error:
            count()
        messages.append(str(error.value))
    assert "train/emu has no images (.jpg" in messages[0]
    (tree / "train" / "emu" / "deep").mkdir()
    Image.new("RGB", (4, 4)).save(tree / "train" / "emu" / "deep" / "emu.png")
    assert count_classes(tree / "train") == 3


@pytest.mark.parametrize(
    ("missing", "keys", "selected_on", "expected"),
    [
        ((), {}, "validation", "test"),
        (("test",), {}, "validation", "validation"),
        (("test",), {"val_fraction": 0.2}, "held_out", "validation"),  # the table is of val/
        (("val",), {}, "held_out", "test"),
        (("val", "test"), {}, "held_out", "held_out"),
        ((), {"unlabeled": "train"}, "validation", "test"),
        (("val",), {"unlabeled": "train"}, "test", "test"),
        (("test",), {"unlabeled": "train"}, "validation", "validation"),
    ],
)
def test_the_split_that_is_named_is_the_one_that_was_read(vision_data, tree, missing, keys, selected_on, expected):
    for name in missing:
        shutil.rmtree(tree / name)
    if "unlabeled" in keys:
        keys = dict(unlabeled=str(tree / "train"), num_samples=5, few_shot=True, balanced=False)
    data = vision_data("folder", root=str(tree), **keys)
    assert data.evaluation_split == expected
    folders = {"held_out": "train", "validation": "val", "test": "test"}
    for split, name in ((data.splits.validation, selected_on), (data.splits.test, expected)):
        assert Path(split.source.path(0)).relative_to(tree).parts[0] == folders[name]
        assert data.counts[name]["images"] == len(split)
    assert data.counts.keys() == {"train", selected_on, expected}  # each once
    assert data.counts["train"] == ({"images": 5} if "unlabeled" in keys else data.counts["train"])
