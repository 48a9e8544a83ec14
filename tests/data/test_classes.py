"""Which class has which number: by the names of folders, of a file, or of what was trained before."""

import shutil

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

from lightning_vitc.data import cifar
from lightning_vitc.data.classes import ClassNames, as_file, natural_order, read_class_file
from lightning_vitc.data.listed import SCENES
from lightning_vitc.data.oxford import PETS
from lightning_vitc.data.sources import ArraySource, Split, Splits
from lightning_vitc.data.splits import _in_order
from lightning_vitc.errors import UserError


def _message(action) -> str:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def numbered(tmp_path, write_tree):
    """Folders whose natural order is another than `sorted`: 1 + 2 + 3 + 4 test images of c1, c2, c10 and C2."""
    for split in ("train", "test"):
        write_tree(tmp_path / split, {"c1": 1, "c2": 2, "c10": 3, "C2": 4})
    return tmp_path


def _counts(data) -> list[int]:
    return np.bincount(data.splits.test.targets, minlength=data.num_classes).tolist()


def test_the_order_is_that_of_image_folder(vision_data, numbered):
    data = vision_data("folder", root=str(numbered))
    assert list(data.classes) == ImageFolder(numbered / "train").classes == ["C2", "c1", "c10", "c2"]
    assert _counts(data) == [4, 1, 3, 2]


@pytest.mark.parametrize("text", ["c10\nc2\nC2\nc1\n", "\ufeffc10\r\nc2\r\n\r\nC2\r\nc1"])
def test_a_file_gives_another_order(vision_data, numbered, text):
    (numbered / "order").write_text(text, newline="")
    data = vision_data("folder", root=str(numbered), classes=str(numbered / "order"))
    assert data.classes == ("c10", "c2", "C2", "c1")
    assert _counts(data) == [3, 2, 4, 1]


@pytest.mark.parametrize(("text", "message"), [
    ("c1\nc2\nc10\n", "data.classes: ROOT/train has the class folder 'C2' that ROOT/order lacks"),
    ("c1\nc2\nc10\nC2\nc3\n", "data.classes: ROOT/train lacks the class folder 'c3' that ROOT/order has"),
    ("c1\nc2\nc10\nC2\nc2\n", "data.classes: ROOT/order names the class 'c2' twice"),
    ("\n", "data.classes: ROOT/order is empty; it has one class name a line"),
    (None, "data.classes: ROOT/order cannot be read (No such file or directory); it has one class name a line"),
])  # fmt: skip
def test_a_file_names_every_folder_once(vision_data, numbered, text, message):
    if text is not None:
        (numbered / "order").write_text(text)
    said = _message(vision_data("folder", root=str(numbered), classes=str(numbered / "order")).setup)
    assert said.replace(str(numbered), "ROOT") == message


def test_any_name_can_be_written_down(tmp_path):
    names = (" a", "b ", "5²", "\udcff", "Ⅻ", "'")
    (tmp_path / "order").write_bytes(as_file(names))
    assert read_class_file(tmp_path / "order") == names


def test_but_for_a_name_of_two_lines(vision_data, numbered):
    (numbered / "train" / "c1").rename(numbered / "train" / "c\n1")
    said = _message(vision_data("folder", root=str(numbered)).setup)
    assert said == f"data.root: {numbered}/train has the class folder 'c\\n1', a name of two lines; rename it"


# What was trained before


KNOWN = ClassNames(("c2", "c10", "C2", "c1"), "runs/x", partial=True)


def test_evaluation_goes_by_the_names(vision_data, numbered):
    shutil.rmtree(numbered / "train")
    data = vision_data("folder", model={"classes": KNOWN}, root=str(numbered))
    assert data.classes == KNOWN.names
    assert _counts(data) == [2, 3, 4, 1]
    assert data.evaluation_split == "test"


def test_evaluation_of_some_of_the_classes(vision_data, numbered):
    shutil.rmtree(numbered / "test" / "c10")
    data = vision_data("folder", model={"classes": KNOWN}, root=str(numbered))
    assert (data.num_classes, _counts(data)) == (4, [2, 0, 4, 1])
    strict = ClassNames(KNOWN.names, "runs/x", remedy="; set run_name")
    said = _message(vision_data("folder", model={"classes": strict}, root=str(numbered)).setup)
    assert said == f"data.root: {numbered}/test lacks the class folder 'c10' that runs/x has; set run_name"


def test_a_split_that_is_not_there(vision_data, numbered):
    shutil.rmtree(numbered / "train")
    data = vision_data("folder", model={"classes": KNOWN}, root=str(numbered))
    said = _message(lambda: data.loader_of("validation"))
    assert said == f"data.root: {numbered} has no images of the validation split"


def test_a_renamed_folder_is_another_class(vision_data, numbered):
    (numbered / "test" / "c10").rename(numbered / "test" / "c11")
    said = _message(vision_data("folder", model={"classes": KNOWN}, root=str(numbered)).setup)
    assert said == (f"data.root: {numbered}/test has the class folder 'c11' that runs/x lacks; did you mean 'c10'?")
    (numbered / "test" / "c11").rename(numbered / "test" / "unlike")
    said = _message(vision_data("folder", model={"classes": KNOWN}, root=str(numbered)).setup)
    assert said == (
        f"data.root: {numbered}/test has the class folder 'unlike' that runs/x lacks; it has 'c2', 'c10', 'C2', 'c1'"
    )


def test_unlabeled_images_are_not_evaluated(vision_data, numbered):
    keys = dict(root=str(numbered), unlabeled="/gone", num_samples=2, few_shot=True, balanced=False)
    data = vision_data("folder", model={"classes": KNOWN}, **keys)
    assert _counts(data) == [2, 3, 4, 1]


def test_other_data_sets_go_by_the_names_too(vision_data):
    turned = tuple("9876543210")
    plain = vision_data("digits", img_size=8, in_chans=1)
    data = vision_data("digits", img_size=8, in_chans=1, model={"classes": ClassNames(turned, "runs/x", partial=True)})
    assert (9 - data.splits.test.targets == plain.splits.test.targets).all()
    assert (9 - data.splits.train.targets == plain.splits.train.targets).all()
    other = ClassNames(("cat", "dog"), "runs/x", partial=True)
    said = _message(vision_data("digits", img_size=8, model={"classes": other}).setup)
    assert said == "data.root: data.name=digits has the class '0' that runs/x lacks; it has 'cat', 'dog'"


@pytest.mark.slow
def test_names_of_the_other_data_sets(vision_data, cifar, flowers, pets, cub, indoor):
    assert vision_data("digits", img_size=8).classes == tuple("0123456789")
    assert vision_data("glyphs", img_size=16, num_classes=12).classes == tuple("0123456789AB")
    assert vision_data("fake", num_classes=3).classes == ("0", "1", "2")
    assert vision_data("cifar10", root=str(cifar(10, "binary"))).classes[3] == "cat"
    hundred = vision_data("cifar100", root=str(cifar(100, "python"))).classes
    assert list(hundred) == sorted(hundred)
    assert (len(set(hundred)), hundred[99]) == (100, "worm")
    assert vision_data("flowers102", root=str(flowers)).classes[76] == "passion flower"
    breeds = vision_data("pets", root=str(pets)).classes
    assert (len(set(breeds)), breeds[0], breeds[36]) == (37, "Abyssinian", "yorkshire_terrier")
    assert vision_data("cub200", root=str(cub)).classes[199] == "200.Common_Yellowthroat"
    assert vision_data("indoor67", root=str(indoor)).classes[::66] == ("airport_inside", "winecellar")


@pytest.mark.parametrize("names", [cifar.CLASSES[10], cifar.CLASSES[100], PETS, SCENES])
def test_numbers_follow_the_alphabet(names):
    """As in the files: `fine_label_names.txt`, `batches.meta.txt` and `trainval.txt` are sorted."""
    assert names.split() == sorted(names.split(), key=str.lower)


# Earlier versions


def test_the_order_of_earlier_versions():
    assert natural_order(["c10", "c2", "b", "C1", "5²"], "x") == ("5²", "b", "C1", "c2", "c10")
    said = _message(lambda: natural_order(["7", "1", "07"], "runs/x"))
    assert said == (
        "runs/x: of a version that ordered the classes '7' and '07' as the disk did, which is not known; "
        "name the order in data.classes, a file with one class name a line"
    )


def test_three_classes_in_a_circle_have_the_numbers_that_are_known():
    """b, c and a, which are 1, 2 and 0; the other way round they would be 2, 0 and 1."""
    split = Split.whole(ArraySource(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), np.array([0, 1, 2])))
    found = _in_order(Splits(split, split, split, ("b", "c", "a")), ClassNames(("a", "b", "c"), "a file"), "any")
    assert found.train.targets.tolist() == [1, 2, 0]
    assert found.classes == ("a", "b", "c")
