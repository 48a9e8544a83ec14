"""Missing packages."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gpu
import pytest
from on_gpu.wheels import MissingPackageError, put_in_place

SCRIPT = Path(gpu.__file__)


def wheel(folder: Path, name: str, needs: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "here = True\n")
        lines = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        archive.writestr(f"{name}-1.0.dist-info/METADATA", lines + (f"Requires-Dist: {needs}\n" if needs else ""))
    return path


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


@pytest.mark.usefixtures("_restored")
def test_missing_packages_come_from_wheels(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_there", "of-its-own>=1.0; python_version > '3'")
    wheel(tmp_path / "wheels", "of_its_own")
    needed = {"not_there": "not-there", "json": "json"}
    used = put_in_place(tmp_path / "wheels", tmp_path / "site", needed)
    assert used == ["not_there-1.0-py3-none-any.whl", "of_its_own-1.0-py3-none-any.whl"]
    assert (sys.path[0], sys.path[-1]) == (str(SCRIPT.parents[1]), str(tmp_path / "site"))
    code = "import not_there, of_its_own, lightning_vitc; print(lightning_vitc.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(SCRIPT.parents[1] / "lightning_vitc" / "__init__.py")


@pytest.mark.usefixtures("_restored")
def test_all_packages_without_a_wheel_are_named(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_there", "of-its-own")
    needed = {name.replace("-", "_"): name for name in ("not-there", "nor-this", "nor-that")}
    with pytest.raises(MissingPackageError, match=r"^neither installed nor among .* of-its-own") as error:
        put_in_place(tmp_path / "wheels", tmp_path / "site", needed)
    assert str(error.value).endswith("pip download --no-deps -d wheels nor-that nor-this of-its-own")


@pytest.mark.usefixtures("_restored")
def test_what_is_needed_elsewhere_is_not_missing_here(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_there", "of-its-own; python_version < '3.10'")
    assert put_in_place(tmp_path / "wheels", tmp_path / "site", {"not_there": "not-there"}) == [
        "not_there-1.0-py3-none-any.whl"
    ]
