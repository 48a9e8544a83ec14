"""Whose directory it is, and who may change it when."""

import errno
import fcntl
import json
import time
from pathlib import Path

import pytest

from lightning_vitc.config import load_experiment
from lightning_vitc.config.sources import flat
from lightning_vitc.errors import UserError
from lightning_vitc.runs.directory import FREE, RunDirectory, read_json
from lightning_vitc.schema import Experiment

HOLD = """
import fcntl, time
lock = open(path, "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
open(mark, "w").close()
time.sleep(60)
"""


def experiment(place: Path, *overrides: str) -> Experiment:
    return load_experiment("scala_digits", (f"output_dir={place}", *overrides))


def opened(place: Path, *overrides: str, fresh: bool = False) -> RunDirectory:
    directory = RunDirectory.of(experiment(place, *overrides))
    directory.open(experiment(place, *overrides), fresh)
    directory.close()
    return directory


def refusal(place: Path, *overrides: str, fresh: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        opened(place, *overrides, fresh=fresh)
    return str(caught.value).replace(str(place), "OUT")


def test_where_a_run_is(tmp_path):
    directory = RunDirectory.of(experiment(tmp_path, "run_name=second"))
    assert directory.path == tmp_path / "scala_digits" / "second"
    assert directory.stage("dense") == directory.path / "checkpoints" / "dense"


def test_the_first_start_writes_the_whole_config(tmp_path):
    directory = opened(tmp_path, "optimizer.lr=3e-3")
    again = load_experiment(str(directory.config))
    assert again == experiment(tmp_path, "optimizer.lr=3e-3")
    assert not directory.is_complete()


def test_the_same_run_is_taken_up(tmp_path):
    directory = opened(tmp_path)
    (directory.path / "metrics.jsonl").write_text("kept")
    before = directory.config.stat().st_mtime_ns
    opened(tmp_path)
    assert directory.config.stat().st_mtime_ns == before
    assert (directory.path / "metrics.jsonl").read_text() == "kept"


@pytest.mark.parametrize(
    ("override", "there", "here"),
    [
        ("seed=1", "seed=0", "1"),
        ("method.slice=per_qkv", "method.slice=per_head", "per_qkv"),
        ("data.batch_size=16", "data.batch_size=32", "16"),
        ("trainer.precision=bf16-mixed", "trainer.precision=32-true", "bf16-mixed"),
        ("callbacks.ema.decay=0.9", "callbacks.ema.decay=None", "0.9"),
    ],
)
def test_another_run_is_refused_with_the_key(tmp_path, override, there, here):
    opened(tmp_path)
    assert refusal(tmp_path, override) == (
        f"OUT/scala_digits/default: holds a run with {there}, this one has {here}; "
        "set run_name to another name, or use --fresh to start over"
    )


def test_an_unfinished_run_of_a_version_without_a_key_is_not_continued(tmp_path):
    """With today's default from the middle on it would be neither that version's run nor this one's."""
    directory = opened(tmp_path)
    lines = directory.config.read_text().splitlines(keepends=True)
    directory.config.write_text(
        "".join(line for line in lines if not line.startswith(("  switch_prob:", "threads:", "# digest")))
    )
    assert refusal(tmp_path) == (
        "OUT/scala_digits/default: holds an unfinished run of a version that had no data.switch_prob; finish it with "
        "that version, set run_name to another name, or use --fresh to start over"
    )
    directory.result.write_text("{}")
    opened(tmp_path)


def test_where_and_how_fast_may_change(tmp_path):
    opened(tmp_path)
    opened(tmp_path, "trainer.devices=2", "trainer.strategy=ddp", "trainer.num_nodes=2", "data.num_workers=3",
           "threads=2", "slurm.nodes=7", "callbacks.checkpoint.every_n_steps=5", "trainer.profiler=simple")  # fmt: skip


def test_free_keys_exist():
    """A key that is renamed must be renamed there, or runs stop to be continued elsewhere."""
    known: dict[str, object] = {}
    for name in ("scala_digits", "dcvit_digits"):  # the second for the keys of trials
        known |= flat(load_experiment(name, ["callbacks.checkpoint.every_n_steps=5"]).to_container())
    for free in FREE:
        assert any(key == free or key.startswith(f"{free}.") for key in known), free


@pytest.mark.parametrize("fresh", [False, True])
def test_a_directory_of_something_else_is_left_alone(tmp_path, fresh):
    place = tmp_path / "scala_digits" / "default"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    message = "--fresh deletes nothing there" if fresh else "it holds notes.txt and no config.yaml"
    assert (
        refusal(tmp_path, fresh=fresh)
        == f"OUT/scala_digits/default: not a run directory{';' if fresh else ':'} {message}"
    )
    assert [file.name for file in place.iterdir()] == ["notes.txt"]
    assert (place / "notes.txt").read_text() == "mine"


def test_fresh_deletes_a_run_of_any_config_but_not_through_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("")
    directory = opened(tmp_path, "seed=1")
    directory.stage("dense").mkdir(parents=True)
    (directory.path / "link").symlink_to(tmp_path / "elsewhere")
    directory.result.write_text("{}")
    opened(tmp_path, fresh=True)
    assert sorted(file.name for file in directory.path.iterdir()) == [".lock", "config.yaml"]
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_files_of_a_batch_job_are_no_strangers_and_survive(tmp_path):
    place = tmp_path / "scala_digits" / "default"
    place.mkdir(parents=True)
    for name in ("train.sbatch", "slurm-17.log"):
        (place / name).write_text(name)
    opened(tmp_path)
    opened(tmp_path, fresh=True)
    assert (place / "train.sbatch").read_text() == "train.sbatch"
    assert (place / "slurm-17.log").read_text() == "slurm-17.log"


def test_what_a_killed_process_was_writing_is_swept(tmp_path):
    directory = opened(tmp_path)
    folder = directory.stage("dense")
    folder.mkdir(parents=True)
    for name in (".last.ckpt.123.tmp", "last.ckpt"):
        (folder / name).write_text("")
    (directory.path / ".result.json.9.tmp").write_text("")
    copied = folder.with_name(".trials_0.tmp")  # a stage of another run
    copied.mkdir()
    for name in (".last.ckpt.9.tmp", "best.ckpt"):
        (copied / name).write_text("")
    opened(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["last.ckpt"]
    assert not list(directory.path.rglob("*.tmp"))


def test_one_process_at_a_time(tmp_path, fork):
    directory = opened(tmp_path)
    process = fork(HOLD, path=str(directory.path / ".lock"), mark=str(tmp_path / "locked"))
    while not (tmp_path / "locked").exists():
        time.sleep(0.01)
    assert (
        refusal(tmp_path)
        == "OUT/scala_digits/default: another process is running this run; wait for it or set run_name"
    )
    process.kill()
    process.join()
    opened(tmp_path)


def test_a_place_that_cannot_be_written():
    directory = RunDirectory("/proc/runs/default")
    with pytest.raises(UserError, match=r"^output_dir: /proc/runs/default cannot be written \(.+\); name another$"):
        directory.open(load_experiment("scala_digits"))


def test_closing_lets_others_in(tmp_path, fork):
    directory = RunDirectory.of(experiment(tmp_path))
    directory.open(experiment(tmp_path))
    directory.close()
    directory.close()
    code = "import fcntl\nfcntl.lockf(open(path, 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    process = fork(code, path=str(directory.path / ".lock"))
    process.join(60)
    assert process.exitcode == 0


def test_reading_a_result(tmp_path):
    directory = opened(tmp_path)
    directory.result.write_text(json.dumps({"dense": None, "rows": []}))
    assert directory.is_complete()
    assert directory.read_result() == {"dense": None, "rows": []}


def test_a_damaged_result_is_refused_by_all_that_read_the_run(tmp_path):
    directory = opened(tmp_path)
    directory.result.write_bytes(b"{")
    with pytest.raises(UserError) as caught:
        directory.must_be_complete()
    assert str(caught.value) == (
        f"{directory.result}: damaged: it is no JSON document; remove it and start the run again, which writes it anew"
    )


def test_a_damaged_config_is_refused_with_what_helps(tmp_path):
    directory = opened(tmp_path)
    directory.config.write_text("{")
    with pytest.raises(UserError, match=rf"^{directory.config}:\d+: .*; repair it, or start over with --fresh$"):
        directory.experiment()
    assert "; repair it, or start over with --fresh" in refusal(tmp_path)
    opened(tmp_path, fresh=True)


def test_a_file_system_that_locks_no_files(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert refusal(tmp_path) == (
        "output_dir: OUT/scala_digits/default is on a file system that locks no files (Function not implemented); "
        "name another"
    )
    assert not list(tmp_path.iterdir())


def test_reading_json(tmp_path):
    path = tmp_path / "done.json"
    for content in (b"{", b"\xff\xfe", b"3", b'{"seconds": 1}'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^{path}: damaged: it .*; remove it and start the run again, which"):
            read_json(path, "weights")
    path.write_text('{"weights": "last.ckpt"}')
    assert read_json(path, "weights") == {"weights": "last.ckpt"}
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "result.json").touch()
    path.write_bytes(b"{")
    with pytest.raises(UserError, match=r"JSON document; remove it and result.json and start the run again, which"):
        read_json(path)


def test_withdrawing_a_run_that_was_begun_here(tmp_path):
    place = tmp_path / "scala_digits" / "default"
    place.mkdir(parents=True)
    (place / "slurm-17.log").write_text("")
    directory = opened(tmp_path)
    (directory.path / "tensorboard").mkdir()
    directory.withdraw()
    assert [file.name for file in place.iterdir()] == ["slurm-17.log"]


@pytest.mark.parametrize("fresh", [False, True])
def test_withdrawing_leaves_nothing(tmp_path, fresh):
    out = tmp_path / "runs"
    if fresh:
        opened(out)
    directory = opened(out, fresh=fresh)
    (directory.path / "tensorboard").mkdir()
    directory.withdraw()
    assert not directory.path.exists()
    assert out.exists() == fresh  # the folders above, if this process made them


def test_a_run_of_before_or_with_a_checkpoint_is_not_withdrawn(tmp_path):
    first = opened(tmp_path)
    opened(tmp_path).withdraw()  # did not begin it
    assert first.config.exists()
    first.stage("dense").mkdir(parents=True)
    (first.stage("dense") / "last.ckpt").write_text("")
    first.withdraw()
    assert first.config.exists()


def test_flat():
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}) == {
        "a.b": 1, "a.c.d": [1, 2], "e": None,
    }  # fmt: skip
