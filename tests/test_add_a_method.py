"""docs/add_a_method.md, done as it says in a copy of the project."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_vitc

ROOT = Path(lightning_vitc.__file__).parents[1]
PAGE = (ROOT / "docs" / "add_a_method.md").read_text()
FILES = dict(re.findall(r"\*\*`([^`\n]+)`\*\*\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
SMALL = ("model.depth=1", "model.embed_dim=48", "data.num_samples=256", "optimizer.lr=3e-3")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy with the page's files in it."""
    place = tmp_path_factory.mktemp("project")
    for folder in ("lightning_vitc", "experiments"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=place, capture_output=True, text=True, check=False, env=environment
    )


COMMANDS = """
import contextlib, io, json, pathlib, sys
import pytest
from lightning_vitc.cli import main

outputs = {}
for program, *arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = {"vitc": main, "pytest": pytest.main}[program](arguments)
    assert code == 0, (program, arguments, out.getvalue())
    outputs[f"{program} {arguments[0]}"] = out.getvalue()
pathlib.Path("outputs.json").write_text(json.dumps(outputs))
"""  # of one process, which does the imports once


def test_the_page_has_the_three_files():
    assert list(FILES) == [
        "lightning_vitc/methods/magnitude.py", "experiments/magnitude_digits.yaml", "tests/methods/test_magnitude.py",
    ]  # fmt: skip


def test_its_code_is_in_the_style_of_the_house(project):
    paths = [str(project / name) for name in FILES if name.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = run(project, "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *paths)
        assert done.returncode == 0, done.stdout


def test_its_keys_are_typed_at_once(project):
    done = run(project, "lightning_vitc", "train", "magnitude_digits", "method.ratio=2")
    message = "error: method.ratio: 2 is out of range; it must be > 0 and < 1\n"
    assert (done.returncode, done.stderr) == (2, message)
    done = run(project, "lightning_vitc", "train", "magnitude_digits", "method.ration=0.5")
    assert (done.returncode, "did you mean 'method.ratio'?" in done.stderr) == (2, True)


@pytest.mark.slow
def test_its_commands(project):
    """Each line of the last console block, the training on a smaller model."""
    console = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)[-1]
    lines = [shlex.split(line) for line in console.splitlines()]
    more = {"train": SMALL, "tests/methods/test_magnitude.py": ("-p", "no:cacheprovider")}
    (project / "commands.py").write_text(COMMANDS)
    done = run(project, "commands", json.dumps([[*line, *more.get(line[1], ())] for line in lines]))
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = json.loads((project / "outputs.json").read_text())
    assert "magnitude_digits" in outputs["vitc list"]
    assert "Magnitude: removes the MLP channels" in outputs["vitc list"]
    assert "1 passed" in outputs["pytest tests/methods/test_magnitude.py"]
    document = json.loads((project / "runs" / "magnitude_digits" / "default" / "result.json").read_text())
    (row,) = document["rows"]
    assert (row["name"], row["ratio"]) == ("magnitude", 0.5)
    assert document["dense"]["params"] - row["params"] == 96 * (48 + 1 + 48)  # of 192 channels, rows, bias, columns
    assert lightning_vitc.load(project / "exports" / "magnitude").blocks[0].mlp.fc1.out_features == 96
    assert f"magnitude: top-1 {row['top1']:.2f} %" in outputs["vitc evaluate"]
