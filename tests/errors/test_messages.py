"""Whatever a value or a file is called, a message is one line that a terminal shows as it is."""

import ast
import re
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_vitc import cli
from lightning_vitc.errors import RunFailure, UserError
from lightning_vitc.errors.messages import counted, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("seed: -1 is out of range; it must be >= 0", None),
        ("データ/画像 'né' 👩\u200d🔬", None),
        ("a\x1b[31mred\x07\x00\x7f\x9b", r"a\x1b[31mred\x07\x00\x7f\x9b"),
        ("two\nlines\r\nthree\x85four\u2028five", "two lines three four five"),
        ("a\ttab", r"a\ttab"),
        ("\udce9 \u202edetrever \ufeff", r"\udce9 \u202edetrever \ufeff"),
        (f"key: {'x' * 201} is wrong", f"key: {'x' * 134} ... {'x' * 66} is wrong"),
        (f"key: {'x' * 200} is wrong", None),
        ("key: " + "a b " * 1_000 + "right", "key: " + "a b " * 132 + "a ... " + ("a b " * 66)[3:] + "right"),
    ],
)
def test_one_line(text: str, shown: str | None) -> None:
    assert one_line(text) == (text if shown is None else shown)


def test_a_text_keeps_its_lines() -> None:
    assert printable("a\nb\x1b") == "a\nb\\x1b"


def fake_command(monkeypatch: pytest.MonkeyPatch, run) -> None:
    module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli, "import_module", lambda name: module)


@pytest.mark.parametrize("error", [UserError, RunFailure])
def test_errors_are_printed_so(monkeypatch, capsys, error) -> None:
    def run(args: object) -> int:
        raise error(f"data.root: {'/long' * 1_000}/\x1b[2J\n{'a b ' * 1_000}: no such file")

    fake_command(monkeypatch, run)
    cli.main(["list"])
    line = capsys.readouterr().err
    assert line.startswith("error: data.root: /long/long")
    assert line.endswith(": no such file\n")
    assert line[:-1].isprintable()
    assert len(line) < 850


def test_a_warning_is_one_line_without_its_place_in_the_code(monkeypatch, capsys) -> None:
    def run(args: object) -> int:
        warnings.formatwarning = lambda *_: "of Lightning"  # it replaces that when it is imported
        warnings.warn("data.root: x\x1b[2J\n" + "y" * 5_000, UserWarning, stacklevel=1)
        warnings.warn("a switch is gone", FutureWarning, stacklevel=1)
        return 0

    fake_command(monkeypatch, run)
    for name in ("formatwarning", "showwarning"):
        monkeypatch.setattr(warnings, name, getattr(warnings, name))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["list"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: data.root: x\\x1b[2J yyy")
    assert len(first) < 400
    assert second == "warning: a switch is gone"


def test_counted() -> None:
    shown = [counted(0, "image"), counted(1, "image"), counted(12_000, "class"), counted(3, "accumulated batch")]
    assert shown == ["0 images", "1 image", "12,000 classes", "3 accumulated batches"]
    assert [counted(number, "line is", "lines are") for number in (1, 2)] == ["1 line is", "2 lines are"]


NOUNS = re.compile(
    r" ((damaged|unusable|training|train|val|test|accumulated|extra|value) )?"
    r"(batches|blocks|candidates|channels|classes|epochs|files|heads|images|lines|networks|positions|processes|seeds|"
    r"stages|steps|threads|values|widths)\b"
)
NEVER_ONE = {
    "len(CHARACTERS) classes", "len(self.stages) stages", "num_classes images", "sum(self.depths) blocks",
    "loader batches", "_each(heads) heads", "list(heads) heads", "stages stages",
}  # fmt: skip


def test_no_message_counts_one_images() -> None:
    """A number before a noun is written by `counted`."""
    found = set()
    package = Path(cli.__file__).parent
    for path in (*package.rglob("*.py"), *(package.parent / "callbacks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for value, text in pairwise(node.values) if isinstance(node, ast.JoinedStr) else ():
                if isinstance(text, ast.Constant) and (match := NOUNS.match(text.value)):
                    found.add(f"{ast.unparse(value.value)}{match[0]}")
    assert found == NEVER_ONE


LONG = "x" * 10_000


@pytest.mark.parametrize(
    "arguments",
    [
        [LONG], ["train", LONG], ["train", "a\udce9\x1b.yaml"], ["train", f"/{LONG}"], ["train", "scala_digits", LONG],
        ["train", "scala_digits", f"{LONG}=1"], ["train", "scala_digits", f"seed={LONG}"],
        ["train", "scala_digits", f"output_dir={LONG}"], ["train", "scala_digits", f"output_dir={'a/' * 5_000}"],
        ["train", "scala_digits", "output_dir=a\udce9"], ["train", "scala_digits", "output_dir=' '"],
        ["train", "scala_digits", "output_dir="], ["train", "scala_digits", 'output_dir="a\\e[31m\\r"'],
        ["train", "scala_digits", "output_dir=a\x1b[31m"], ["train", "scala_digits", f"run_name={LONG}"],
        ["train", "scala_digits", 'run_name="a\\e[31m"'], ["train", "scala_digits", 'description="a\\uD800"'],
        ["train", "scala_digits", f"model.name={LONG}"], ["train", "scala_digits", f"model.pretrained={LONG}.pth"],
        ["train", "scala_digits", f"teacher.run={LONG}"], ["train", "scala_digits", f"method.name={LONG}"],
        ["train", "scala_digits", f"slurm.setup=['{LONG}', 3.5]"], ["evaluate", LONG], ["evaluate", "a\x1b\udce9"],
        ["export", "x", "--out", LONG], ["export", "x", "--out", ""], ["cost", LONG], ["cost", "x", f"{LONG}=3"],
        ["report", "x", "--out", "\x07"], ["evaluate", "x", "--split", LONG], ["slurm", "scala_digits", "--time", LONG],
        ["train", "scala_digits", f"data.scale=[{', '.join(['1'] * 4_000)}]"],
    ],
    ids=lambda arguments: ascii(" ".join(argument[:20] for argument in arguments)),
)  # fmt: skip
def test_absurd_input_is_one_line(tmp_path, monkeypatch, capsys, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line) < 850
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text(tmp_path) -> None:
    """As the shell passes them on, in a process of its own."""
    command = [sys.executable, "-m", "lightning_vitc", "train", "scala_digits", b"output_dir=caf\xe9"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: output_dir: invalid YAML: unacceptable character #xdce9: ")
    assert done.stderr.count(b"\n") == 1
