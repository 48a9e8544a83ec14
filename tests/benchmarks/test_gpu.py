"""The script for a GPU, on the CPU: all of it at tiny sizes, and its command line."""

import json
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import timm
from on_gpu import pretend, tiers
from on_gpu.place import Place
from on_gpu.units import NEEDS_CUDA, Unit

from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec

SCRIPT = Path(gpu.__file__)


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_everything_runs_at_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--seconds", "900,900,900", "--out", str(tmp_path / "out"),
               "--scratch", str(tmp_path / "scratch")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    document = json.loads((tmp_path / "out" / "gpu.json").read_text())
    bad = {name: unit for name, unit in document["units"].items()
           if unit["status"] != "ok" and unit.get("reason") != NEEDS_CUDA}  # fmt: skip
    assert not bad
    assert done.returncode == 0, done.stderr
    wanted = {unit.name for tier in gpu.TIERS for unit in units_of(tier, tmp_path)}
    assert set(document["units"]) == wanted
    assert {"check", "speed", "study"} <= {name.split("/")[0] for name in wanted}
    taught = document["units"]["speed/step/DeiT-S/bf16/eager/dense, taught"]["values"]
    dense = document["units"]["speed/step/DeiT-S/bf16/eager/dense"]["values"]
    teacher = ArchSpec.of(timm.create_model("deit_small_patch16_224", img_size=32))
    assert taught["macs"] - dense["macs"] == taught["batch"] * costs.macs(teacher)  # a forward pass of it, once
    tables = (tmp_path / "out" / "gpu.md").read_text()
    assert all(title in tables for title in ("### Check", "### Speed", "### Study"))


def units_of(tier: str, folder: Path) -> list[Unit]:
    scratch = folder / "scratch"
    plain = Place("cpu", True, folder / "out", scratch, scratch / "pretended", 2)
    assert plain.data == pretend.pretended(plain)
    return tiers.units_of(tier, plain, 100)


@pytest.mark.parametrize(("text", "expected"), [
    (None, {"check": 100, "study": 240}), ("34", {"check": 10, "study": 24}), ("5,7", {"check": 5, "study": 7}),
])  # fmt: skip
def test_seconds(text: str | None, expected: dict[str, float]) -> None:
    assert gpu.seconds_of(["check", "study"], text) == expected


@pytest.mark.parametrize("text", ["0", "-3,4", "1,2,3", "soon"])
def test_other_seconds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        gpu.seconds_of(["check", "study"], text)


def test_nothing_that_may_be_missing_is_imported_before() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu, runpy; "
        "print([name for name in ('omegaconf', 'torch', 'lightning_vitc', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("arguments", "said"), [
    (("--tier", "speeed"), "--tier: 'speeed' is not one of check, speed, study"),
    (("--seconds", "soon"), "--seconds: 'soon' is neither one number > 0 nor one for each of check,speed,study"),
    (("--data", "nowhere"), "--data: nowhere is no folder"),
])  # fmt: skip
def test_bad_arguments(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=tmp_path,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"gpu.py: error: {said}")
