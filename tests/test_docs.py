"""The README and docs/: their links lead somewhere, and their commands are commands with keys that there are."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from lightning_vitc.commands import COMMANDS
from lightning_vitc.config import experiments, load_experiment
from lightning_vitc.sweeping.combinations import combinations

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_EXPERIMENTS = ("train", "plan", "slurm", "sweep", "show")


def commands(page: Path) -> list[list[str]]:
    """The words of every line that begins with `vitc`, in blocks of the terminal."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vitc ")]


LINES = [(page.relative_to(ROOT), words) for page in PAGES for words in commands(page)]


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        broken += [(page.name, link) for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_there_are_commands():
    assert len(LINES) > 40
    assert {words[0] for _, words in LINES} >= {"train", "export", "predict", "report", "sweep", "cost", "plan"}


@pytest.mark.parametrize(("page", "words"), LINES, ids=[f"{page}:{' '.join(words)}"[:60] for page, words in LINES])
def test_a_command(page, words):
    name, *arguments = words
    assert name in COMMANDS
    parser = argparse.ArgumentParser(exit_on_error=False)
    module = import_module(f"lightning_vitc.commands.{name}")
    module.add_arguments(parser)
    args = parser.parse_intermixed_args(arguments)
    experiment = getattr(args, "experiment", None)
    if name in OF_EXPERIMENTS and experiment in experiments():
        load = combinations if name == "sweep" else load_experiment
        load(experiment, args.overrides, check_files=False)
    elif name in ("train", "slurm", "sweep"):
        pytest.fail(f"{page}: {experiment} is no experiment")


def test_experiments_that_are_named_are_there():
    """In the tables of the methods' pages."""
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        table = re.findall(r"^\| (`\w+`(?:, `\w+`)*)", page.read_text().partition("| experiment |")[2], re.MULTILINE)
        named = [name for row in table for name in re.findall(r"`(\w+)`", row) if not name.startswith("_")]
        assert not set(named) - set(experiments()), page
