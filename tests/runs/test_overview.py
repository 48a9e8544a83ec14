"""`vitc runs` and `vitc rm`, on directories as runs leave them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_vitc.cli import main
from lightning_vitc.config import load_experiment
from lightning_vitc.files.folder_lock import FolderLock, is_taken
from lightning_vitc.runs.directory import RunDirectory, write_json
from lightning_vitc.runs.overview import age, beginning_with, overview, runs_in


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(name: str = "default", *overrides: str, experiment: str = "uvc_digits") -> Path:
    """A run that was stopped in its search."""
    directory = RunDirectory.of(load_experiment(experiment, [f"run_name={name}", *overrides], check_files=False))
    directory.open(load_experiment(experiment, [f"run_name={name}", *overrides], check_files=False))
    directory.close()
    for stage in ("dense", "search"):
        directory.stage(stage).mkdir(parents=True)
    (directory.stage("dense") / "done.json").write_text("{}")
    return directory.path


def finished(name: str, *overrides: str, experiment: str = "uvc_digits") -> Path:
    path = begun(name, *overrides, experiment=experiment)
    row = {"name": "uvc", "top1": 95.5}
    write_json(path / "result.json", {"dense": {"top1": 96.0}, "rows": [row, row | {"top1": 91.25}], "split": "test"})
    return path


def test_a_run_that_was_stopped(here):
    found = overview(begun("small", "budget.macs=30%"))
    assert found[:7] == ("runs/uvc_digits/small", "stopped in search", "uvc_digits", "uvc", "macs 30%", [], "")
    files = [file for file in Path("runs/uvc_digits/small").rglob("*") if file.is_file()]
    assert found.size == sum(file.stat().st_size for file in files)


def test_a_run_that_is_finished():
    assert overview(finished("done"))[1:7] == ("complete", "uvc_digits", "uvc", "macs 50%", [91.25, 95.5], "test")


LOCK = (
    "import sys; from pathlib import Path; from lightning_vitc.files.folder_lock import FolderLock; "
    "lock = FolderLock(Path(sys.argv[1])); lock.take(); print('taken', flush=True); sys.stdin.read()"
)


def test_a_run_that_is_running():
    path = finished("busy")
    assert not is_taken(path)
    command = [sys.executable, "-c", LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"taken\n"
        assert overview(path).state == "running"
        assert main(["rm", str(path)]) == 2
        process.stdin.close()
    assert overview(path).state == "complete"
    FolderLock(path).take()  # asking has kept nobody out


def test_a_run_that_is_damaged(capsys):
    path = finished("torn")
    (path / "result.json").write_text("{")
    assert overview(path)[1:3] == ("damaged", "uvc_digits")
    assert main(["runs"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_all_of_a_folder(here, capsys):
    finished("b")
    begun("a", experiment="dense_digits")
    (here / "runs" / "notes").mkdir()
    assert [path.name for path in runs_in(["runs"])] == ["a", "b"]
    assert main(["runs", "--json"]) == 0
    assert {row["path"] for row in json.loads(capsys.readouterr().out)} == {
        "runs/uvc_digits/b",
        "runs/dense_digits/a",
    }


@pytest.mark.parametrize(("arguments", "said"), [
    (["runs"], "error: runs: no such directory"), (["rm", "nowhere"], "nowhere: not a run directory"),
    (["rm", "."], ".: not a run directory"),
])  # fmt: skip
def test_where_there_is_none(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_what_is_removed(capsys):
    path, other = finished("a"), finished("b")
    assert main(["rm", str(path)]) == 0
    assert capsys.readouterr().out.startswith("removed runs/uvc_digits/a (0.0 MB)")
    assert (path.exists(), other.exists()) == (False, True)


def test_a_run_that_is_named_twice_or_lies_elsewhere(here, capsys):
    path = finished("a")
    other = path.rename(here / "copy")
    assert beginning_with(other) == []
    assert main(["rm", str(other), f"{other}/"]) == 0
    assert capsys.readouterr().out.count("removed") == 1
    assert not [*here.glob(".*")]


def test_nothing_is_removed_where_one_is_refused(here):
    path = finished("a")
    (here / "own").mkdir()
    assert main(["rm", str(path), "own"]) == 2
    assert path.exists()
    (here / "link").symlink_to(path)
    assert main(["rm", "link"]) == 2
    assert path.exists()


def test_what_others_begin_with_is_kept(capsys):
    dense = finished("dense", experiment="dense_digits")
    pruned = finished("p", f"teacher.run={dense}", "teacher.train=false", "teacher.epochs=null")
    assert beginning_with(dense) == [f"{pruned.resolve()} (teacher.run)"]
    assert main(["rm", str(dense)]) == 2
    assert f"{pruned.resolve()} (teacher.run) begins with it" in capsys.readouterr().err
    assert main(["rm", str(dense), str(pruned)]) == 0
    finished("dense", experiment="dense_digits")
    finished("p", f"teacher.run={dense}", "teacher.train=false", "teacher.epochs=null")
    assert main(["rm", "--force", str(dense)]) == 0
    assert (dense.exists(), pruned.exists()) == (False, True)


def test_ages(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e6)
    ages = [age(1e6 - seconds) for seconds in (-5, 3, 60, 7_200, 200_000)]
    assert ages == ["0 s", "3 s", "1 min", "2 h", "2 d"]
