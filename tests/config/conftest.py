import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_vitc.config import registry

SCALED = '''
"""Scaled: a method for these tests.

More of the docstring.
"""
import a_heavy_library_that_is_not_installed as heavy
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal
from lightning_vitc.schema import bounded

@dataclass
class Arguments:
    s: float = bounded(0.25, gt=0, lt=1)
    l: float = bounded(1.0, gt=0, le=1)
    granularity: float = bounded(0.125, gt=0)
    slice: Literal["per_head", "per_qkv", "official", "heads"] = "per_head"
    sampling: str = "paper"
    widths: list[float] | None = None
    isolated: bool = True

    def validate(self, experiment):
        s, l, e = (Fraction(str(value)) for value in (self.s, self.l, self.granularity))
        if s >= l:
            raise ValueError(f"s: {self.s:g} must be less than method.l = {self.l:g}")
        if ((l - s) / e).denominator != 1:
            raise ValueError(f"method.granularity: steps of {self.granularity:g} miss l")
        if (experiment.model.embed_dim or 0) * s % 1:
            raise ValueError("widths that do not divide")
'''
PLAIN = '"""Plain: no keys."""\nimport a_heavy_library_that_is_not_installed\n'
FADE = '''
"""Fade: a callback for these tests."""
from dataclasses import dataclass
from lightning_vitc.schema import bounded

@dataclass
class Arguments:
    decay: float = bounded(0.9, gt=0, lt=1)
    sampling: str = "x"

    def validate(self):
        if self.sampling == "never":
            raise ValueError("sampling: 'never' fades nothing")
'''
EXPERIMENT = """
description: a test
model: {name: deit_tiny_patch16_224}
data: {name: digits}
method: {name: scaled}
optimizer: {lr: 1e-3}
trainer: {max_epochs: 10}
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods `plain` and `scaled`, callback `fade`, and nothing else."""
    for folder, name, text in (("methods", "scaled", SCALED), ("methods", "plain", PLAIN), ("callbacks", "fade", FADE)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(text.lstrip())
    methods, callbacks = registry.methods(tmp_path / "methods"), registry.callbacks(tmp_path / "callbacks")
    monkeypatch.setattr(registry, "methods", lambda: methods)
    monkeypatch.setattr(registry, "callbacks", lambda: callbacks)


@pytest.fixture
def place(toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a valid `experiments/ok.yaml`, and nothing of the package in sight."""
    (tmp_path / "experiments" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_vitc.config.sources.experiment_folders", lambda: [Path("experiments")])
    (tmp_path / "experiments" / "ok.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture
def write(place: Path) -> Callable[[str, str], Path]:
    """Write a file below `experiments/`."""

    def write(name: str, text: str) -> Path:
        path = place / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write
