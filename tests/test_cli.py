import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import lightning_vitc
from lightning_vitc import cli
from lightning_vitc.config import experiments
from lightning_vitc.errors import UserError

ROOT = Path(lightning_vitc.__file__).parents[1]
HEAVY = ("torch", "lightning", "timm", "sklearn", "numpy", "matplotlib", "rich")
DRIVER = f"""
import sys
from lightning_vitc.cli import main
code = main(sys.argv[1:])
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


def vitc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, which fails if it imports a heavy library."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "code", "out", "error"),
    [
        (["--help"], 0, "commands:\n  train ", ""),
        (["--version"], 0, f"vitc {lightning_vitc.__version__}\n", ""),
        (["train", "--help"], 0, "usage: vitc train [-h] [--fresh] EXP [key=value ...]", ""),
        (["list"], 0, "Experiments (vitc train NAME)\n", ""),
        ([], 2, "", "error: vitc: a command is missing; see 'vitc --help'\n"),
        (["--frsh"], 2, "", "error: vitc: unrecognized arguments: --frsh; see 'vitc --help'\n"),
        (["trian"], 2, "", "error: trian: unknown command; did you mean 'train'?\n"),
        (
            ["export", "run", "--out", "out", "--license", "mit\n---\nother: 1"],
            2,
            "",
            "error: --license: 'mit\\n---\\nother: 1' is not text of one line without control characters\n",
        ),
        (
            ["train"],
            2,
            "",
            "error: vitc train: the following arguments are required: EXP; see 'vitc train --help'\n",
        ),
        (
            ["train", "scala_digits", "--fresh", "method.slice=perhead", "seed=1"],
            2,
            "",
            "error: method.slice: 'perhead' is not one of per_head, per_qkv, official, heads, released; "
            "did you mean 'per_head'?\n",
        ),
        (
            ["train", "scala_digits", "method.sampling=${oc.env:HOME}"],
            2,
            "",
            "error: method.sampling: '${oc.env:HOME}' calls a resolver; only ${section.key} is allowed, "
            "nothing is evaluated\n",
        ),
    ],
)
def test_light_answers(arguments: list[str], code: int, out: str, error: str) -> None:
    done = vitc(*arguments)
    assert (done.returncode, done.stderr) == (code, error)
    assert out in done.stdout if out else not done.stdout


def test_list_json_is_one_document() -> None:
    document = json.loads(vitc("list", "--json").stdout)
    assert list(document) == ["experiments", "methods", "callbacks", "data", "models"]
    assert document["experiments"] == experiments()
    assert document["models"]["t2t_vit_14"] == "21,545,550 parameters, 4,783,468,544 MACs"
    assert {"dense", "scala"} <= document["methods"].keys()
    assert all(line for table in document.values() for line in table.values())


def test_module_runs_as_a_command_and_a_broken_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "lightning_vitc", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == cli.EXIT_BROKEN_PIPE


def fake_command(monkeypatch: pytest.MonkeyPatch, raised: BaseException | None, under: BaseException | None = None):
    def run(args: object) -> int:
        try:
            if under is not None:
                raise under
        finally:  # what is raised here carries the other as its context, as when Lightning shuts down
            if raised is not None:
                raise raised
        return 0

    module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli, "import_module", lambda name: module)


@pytest.mark.parametrize(
    ("raised", "under", "code", "line"),
    [
        (None, None, 0, ""),
        (UserError("a: b\nc"), None, 2, "error: a: b c\n"),
        (KeyboardInterrupt(), None, 130, "interrupted\n"),
        (SystemExit(1), KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, under, code: int, line: str) -> None:
    fake_command(monkeypatch, raised, under)
    assert cli.main(["list"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("raised", [RuntimeError("a fault of ours"), SystemExit(3), ValueError("not the user's")])
def test_other_faults_keep_their_traceback(monkeypatch, raised: BaseException) -> None:
    fake_command(monkeypatch, raised)
    with pytest.raises(type(raised)):
        cli.main(["list"])


def test_train_gets_the_typed_experiment(monkeypatch, tmp_path: Path) -> None:
    calls = []
    fake = SimpleNamespace(train=lambda experiment, fresh: calls.append((experiment, fresh)))
    monkeypatch.setitem(sys.modules, "lightning_vitc.pipeline.train", fake)
    arguments = ["train", "scala_digits", "seed=3", "--fresh", f"output_dir={tmp_path}"]
    assert cli.main(arguments) == 0
    [(experiment, fresh)] = calls
    assert (experiment.name, experiment.method_name, experiment.seed, fresh) == ("scala_digits", "scala", 3, True)


def test_package_has_every_name() -> None:
    assert all(getattr(lightning_vitc, name) is not None for name in lightning_vitc.__all__)
    assert set(lightning_vitc.__all__) <= set(dir(lightning_vitc))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lightning_vitc.nothing  # noqa: B018
