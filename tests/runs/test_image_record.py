"""A run that continues with other images is told which, and one that starts says what it has."""

from pathlib import Path

import pytest
from PIL import Image

from lightning_vitc.data import VisionData
from lightning_vitc.errors import UserError
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.image_record import FILE, images_in_words, must_have_same_images, write_images
from lightning_vitc.schema import DataConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images of each of two classes."""
    for name in ("cat", "dog"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / "data" / "train" / name / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """An empty directory of a run."""
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


def _data(name: str = "folder", **keys) -> VisionData:
    return VisionData(DataConfig(name=name, **keys), img_size=8)


def test_an_image_that_is_gone_is_refused_with_its_folder(root, run):
    must_have_same_images(run, _data(root=str(root)))  # a run of before there was a record
    write_images(run, _data(root=str(root)))
    must_have_same_images(run, _data(root=str(root)))
    (root / "train" / "dog" / "3.png").unlink()
    for data in (_data(root=str(root)), _data(root=str(root))):
        with pytest.raises(UserError) as error:
            must_have_same_images(run, data)
        assert str(error.value) == (
            f"data.root: {root}: train/dog has 4 images, it had 5 when the run began; put it back (data.on_error=skip "
            "lives with images that cannot be read), or start over with --fresh or another run_name"
        )
        write_images(run, data)  # leaves what was written
    (root / "train" / "dog" / "3.png").write_bytes(b"no image")
    must_have_same_images(run, _data(root=str(root), on_error="skip"))


def test_data_that_moved_is_the_same(root, run):
    write_images(run, _data(root=str(root)))
    must_have_same_images(run, _data(root=str(root.rename(root.with_name("moved")))))


def test_another_data_set_is_left_to_the_keys(root, run):
    write_images(run, _data(root=str(root)))
    must_have_same_images(run, _data("fake"))


def test_data_without_files_has_no_record(run):
    write_images(run, _data("digits"))
    assert not (run.path / FILE).exists()


def test_the_start_in_words(root):
    assert images_in_words(_data(root=str(root))) == (
        "data: folder, train 8 images of 2 classes, held out of train 2 images of 2 classes"
    )
    assert images_in_words(_data("digits")) == (
        "data: digits, train 1,259 images of 10 classes, validation 179 images of 10 classes, "
        "test 359 images of 10 classes"
    )
    few = dict(num_samples=3, few_shot=True, balanced=False)
    (root / "train").rename(root / "val")
    assert images_in_words(_data(root=str(root), unlabeled=str(root), **few)) == (
        "data: folder, train 3 images without labels, validation 10 images of 2 classes"
    )
