"""What is known about data sets without torch, and what a user is told when files are missing."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from lightning_vitc.data import CATALOG, check_root
from lightning_vitc.errors import UserError
from lightning_vitc.schema import DataConfig


def test_importing_the_catalog_imports_no_torch():
    code = "import sys, lightning_vitc.data; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_catalog_has_the_names_of_the_schema():
    assert set(CATALOG) == set(get_args(get_type_hints(DataConfig)["name"]))


def test_every_data_set_has_a_reader():
    from lightning_vitc.data.splits import _READERS

    assert set(_READERS) == set(CATALOG)


@pytest.mark.parametrize("name", ["digits", "glyphs", "fake"])
def test_data_sets_without_files_need_no_root(name):
    check_root(DataConfig(name=name))


@pytest.mark.parametrize("name", [name for name, info in CATALOG.items() if info.layout])
def test_messages_name_the_key_and_what_is_expected(name, tmp_path):
    layout = CATALOG[name].layout
    messages = []
    for root in (None, str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError) as error:
            check_root(DataConfig(name=name, root=root))
        messages.append(str(error.value))
    assert messages[0] == f"data.root: is not set; {name} expects {layout}"
    assert messages[1] == f"data.root: {tmp_path}/nowhere is not a folder; give data.root=ROOT, {name} expects {layout}"
    assert messages[2].startswith(f"data.root: there is no {tmp_path}/")
    assert messages[2].endswith(f"; {name} expects {layout}")


def test_imagenet_expects_val_and_folder_does_not(tmp_path):
    (tmp_path / "train").mkdir()
    check_root(DataConfig(name="folder", root=str(tmp_path)))
    with pytest.raises(UserError, match=f"no {tmp_path}/val nor {tmp_path}/validation; imagenet expects"):
        check_root(DataConfig(name="imagenet", root=str(tmp_path)))


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_a_root_that_holds_the_classes_itself(name, tmp_path, monkeypatch):
    for label in ("cat", ".cache", "dog", "eel"):
        (tmp_path / "train" / label / "deep").mkdir(parents=True)
        (tmp_path / "train" / label / "deep" / "1.jpg").touch()

    def refused(root) -> str:
        with pytest.raises(UserError) as error:
            check_root(DataConfig(name=name, root=str(root)))
        return str(error.value)

    itself = "is the split train itself; give the folder above it"
    assert refused(tmp_path / "train") == f"data.root: {tmp_path}/train {itself}, data.root={tmp_path}"
    monkeypatch.chdir(tmp_path / "train")
    assert refused(".") == f"data.root: . {itself}, data.root={tmp_path}"
    (tmp_path / "train").rename(tmp_path / "animals")
    assert refused(tmp_path / "animals") == (
        f"data.root: {tmp_path}/animals has class folders (cat, dog, ...) but no split; move them into "
        f"{tmp_path}/animals/train"
    )
    (tmp_path / "animals").rename(tmp_path / "val")
    assert refused(tmp_path).startswith(f"data.root: there is no {tmp_path}/train; ")


def test_complete_roots_pass(tree, flowers, pets, cifar, cub, indoor):
    cifar(100, "python")
    for name in ("folder", "imagenet", "cifar100", "flowers102", "pets", "cub200", "indoor67"):
        check_root(DataConfig(name=name, root=str(tree)))
