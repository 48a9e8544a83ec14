import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

from lightning_vitc.config import registry
from lightning_vitc.errors import UserError

HEAVY = '''
"""Heavy: imports what is not installed.

Second line.
"""
from __future__ import annotations

import a_heavy_library_that_is_not_installed
from a_heavy_library_that_is_not_installed import Tensor
from .sibling import relative
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from lightning_vitc.errors import UserError
from lightning_vitc.schema import Experiment, bounded

if TYPE_CHECKING:
    from nowhere import Pipeline

print("a statement with an effect")
DEFAULT = 0.25
CHOICES = [number / 2 for number in range(3)]
Slice = Literal["per_head", "heads"]
DEVICE = a_heavy_library_that_is_not_installed.device("cpu")

def whole(ratio: float) -> bool:
    return Fraction(str(ratio)).denominator == 1

def heavy(x: Tensor = DEVICE): ...

@dataclass
class Result:
    loss: a_heavy_library_that_is_not_installed.Tensor = DEVICE

@dataclass(frozen=True)
class Arguments:
    s: float = bounded(DEFAULT, gt=0, lt=1)
    slice: Slice = "per_head"
    pick: list[float] = field(default_factory=lambda: list(CHOICES))

    def validate(self, experiment: Experiment) -> None:
        if not whole(self.s * 4):
            raise UserError("method.s: no")

    @classmethod
    def pipeline(cls, run: Pipeline) -> None: ...

class Method(a_heavy_library_that_is_not_installed.Module): ...
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "heavy.py").write_text(HEAVY.lstrip())
    (folder / "bare.py").write_text("import a_heavy_library_that_is_not_installed\n")
    (folder / "__init__.py").write_text('"""Not listed."""')
    (folder / "_private.py").write_text('"""Not listed."""')
    return folder


def test_entries_are_the_public_files(folder: Path) -> None:
    entries = registry.methods(folder)
    assert {name: entry.description for name, entry in entries.items()} == {
        "bare": "", "heavy": "Heavy: imports what is not installed.",
    }  # fmt: skip
    assert entries["heavy"].path == folder / "heavy.py"
    assert registry.callbacks(folder / "nowhere") == {}


def test_arguments_come_without_the_imports_of_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = registry.methods(folder)["heavy"].arguments
    assert [field.name for field in fields(arguments)] == ["s", "slice", "pick"]
    assert get_type_hints(arguments)["s"] is float
    made = arguments()
    assert (made.s, made.slice, made.pick) == (0.25, "per_head", [0.0, 0.5, 1.0])
    made.validate(None)
    with pytest.raises(UserError, match=r"method\.s: no"):
        arguments(s=0.3).validate(None)
    assert capsys.readouterr().out == ""


def test_method_without_arguments_has_no_keys(folder: Path) -> None:
    assert fields(registry.methods(folder)["bare"].arguments) == ()


def test_callback_without_arguments_is_the_frameworks_own(folder: Path) -> None:
    assert list(registry.callbacks(folder)) == ["heavy"]


def test_entries_are_read_once(folder: Path) -> None:
    assert registry.methods(folder)["heavy"] is registry.methods(folder)["heavy"]


def test_arguments_that_need_a_heavy_name_are_a_fault_of_the_file(tmp_path: Path) -> None:
    text = "import torch\nfrom dataclasses import dataclass\n@dataclass\nclass Arguments:\n    x: torch.Tensor = None\n"
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(NameError, match="torch"):
        registry.methods(tmp_path)


def test_public_class_is_the_one_the_module_defines() -> None:
    module = ModuleType("here")
    base = type("Base", (), {"__module__": "elsewhere"})
    mine = type("Mine", (base,), {"__module__": "here"})
    vars(module).update(Base=base, Mine=mine, _Helper=type("_Helper", (base,), {"__module__": "here"}), number=3)
    assert registry.public_class(module, base) is mine


@pytest.mark.parametrize(("load", "message"), [
    (lambda: registry.load_method("scalla"), r"^method.name: unknown method 'scalla'; did you mean 'scala'\? Known: "),
    (lambda: registry.load_callback("emma"), r"^callbacks.emma: unknown callback 'emma'; did you mean 'ema'\? Known: "),
])  # fmt: skip
def test_unknown_name(load: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load()  # type: ignore[operator]


def test_methods_here_read_without_torch_are_the_imported_ones() -> None:
    for name, entry in registry.methods().items():
        method = registry.load_method(name)
        imported = getattr(sys.modules[method.__module__], "Arguments", None)
        assert entry.description
        if imported is not None:
            read = [(field.name, field.default, field.metadata) for field in fields(entry.arguments)]
            assert read == [(field.name, field.default, field.metadata) for field in fields(imported)]


def test_every_callback_here_loads() -> None:
    for name, entry in registry.callbacks().items():
        assert entry.description
        assert isinstance(registry.load_callback(name), type)
