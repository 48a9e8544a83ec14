"""Where the units of the tests are."""

from pathlib import Path

import pytest
from on_gpu.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("cpu", True, tmp_path / "out", tmp_path / "scratch", None, 4)
