"""What a machine can do to a run: one line, the right exit code, and a run that ends as if nothing had been.

Kills and signals are in `test_train.py` and `test_interruption.py`, losses that are no numbers in
`test_finite_loss.py`.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow
OFTEN = "callbacks.checkpoint.every_n_steps=4"


def run_of(place: Path) -> Path:
    return place / "runs" / "scala_digits" / "default"


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / stage / "best.ckpt", weights_only=True)["state_dict"]


def assert_same_end(run: Path, other: Path) -> None:
    for stage in ("dense", "scala"):
        one, two = weights(run, stage), weights(other, stage)
        assert all(torch.equal(one[name], two[name]) for name in two)
    assert (run / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def started(vitc: Any, reached: Any, *arguments: str) -> Any:
    """A run that has come so far."""
    process = vitc.start(*arguments)
    while process.is_alive() and not reached():
        time.sleep(0.002)
    assert process.is_alive(), vitc.done(process).error
    return process


def both_started(vitc: Any, reached: Any, *arguments: str) -> list[Any]:
    """The two ranks of a run that has come so far."""
    ranks = vitc.start_ranks(2, *arguments)
    while not reached():
        assert all(process.is_alive() for process in ranks)
        time.sleep(0.002)
    return ranks


def saved_twice(run: Path, stage: str = "dense") -> Any:
    return (run / "checkpoints" / stage / "previous.ckpt").exists


def whole_generations(run: Path) -> list[int]:
    """The steps of the checkpoints, all of which can be read; nothing else is beside them."""
    files = sorted(path for path in run.glob("checkpoints/dense/*") if path.name != "best.ckpt")
    assert [file.name for file in files] == ["last.ckpt", "previous.ckpt"]
    return [torch.load(file, weights_only=True)["global_step"] for file in files]


# The disk


def test_a_file_that_may_not_grow(finished, vitc, tiny):
    """A limit on the size of files, set while the run is under way, stops it like a quota."""
    arguments, run = ("train", "scala_digits", *tiny, OFTEN), run_of(vitc.place)
    process = started(vitc, saved_twice(run), *arguments)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    done = vitc.done(process)
    assert done.code == 1
    assert done.error == (
        "error: runs/scala_digits/default/checkpoints/dense/last.ckpt: cannot be written (File too large); the "
        "checkpoint before it is whole, and the same command continues from there\n"
    )
    last, before = whole_generations(run)
    assert 0 < before < last
    assert vitc(*arguments).code == 0
    assert_same_end(run, finished)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB and 300 files in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,nr_inodes=300", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("left", [0, 150_000])
def test_a_full_disk(finished, vitc, tiny, small_disk, left):
    """With no room at all, and with room for logs but not for a checkpoint."""
    run, filler = small_disk / "scala_digits" / "default", small_disk / "filler"
    arguments = ("train", "scala_digits", *tiny, OFTEN, f"output_dir={small_disk}")
    process = started(vitc, saved_twice(run), *arguments)
    os.kill(process.pid, signal.SIGSTOP)  # or it would save between the two lines
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
    os.kill(process.pid, signal.SIGCONT)
    process.join(120)
    filler.unlink()
    done = vitc.done(process)
    assert (done.code, done.error.count("\n")) == (1, 1), done.error
    assert "No space left on device" in done.error
    assert "continues from there" in done.error
    whole_generations(run)
    assert not list(run.rglob("*.tmp"))
    assert vitc(*arguments).code == 0
    assert_same_end(run, finished)


@pytest.mark.parametrize("left", [2, 0])
def test_a_disk_that_takes_no_more_files(vitc, tiny, small_disk, left):
    """It has room, and no inode: none for a checkpoint, or two, so that the board of the next stage has none."""
    run, filler = small_disk / "scala_digits" / "default", small_disk / "filler"
    arguments = ("train", "scala_digits", *tiny, OFTEN, f"output_dir={small_disk}")
    process = started(vitc, saved_twice(run), *arguments)
    os.kill(process.pid, signal.SIGSTOP)
    filler.mkdir()
    for number in range(os.statvfs(small_disk).f_favail - left):
        (filler / str(number)).touch()
    os.kill(process.pid, signal.SIGCONT)
    process.join(120)
    shutil.rmtree(filler)
    done = vitc.done(process)
    assert (done.code, done.error.count("\n")) == (1, 1), done.error
    assert "No space left on device" in done.error
    assert not list(run.rglob("*.tmp"))
    assert vitc(*arguments).code == 0


# Damaged checkpoints


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(finished, vitc, tiny):
    arguments, run = ("train", "scala_digits", *tiny, OFTEN), run_of(vitc.place)
    assert vitc.kill_when(saved_twice(run), *arguments)
    last = run / "checkpoints" / "dense" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    done = vitc(*arguments)
    assert done.code == 0
    warning = "default/checkpoints/dense/last.ckpt: damaged or truncated checkpoint; the run continues from the"
    assert warning in done.error
    assert_same_end(run, finished)
    assert not list(run.rglob("previous.ckpt")), "a finished stage needs one"


def test_where_all_are_damaged_it_says_so_and_touches_nothing(vitc, tiny):
    arguments, run = ("train", "scala_digits", *tiny, OFTEN), run_of(vitc.place)
    assert vitc.kill_when(saved_twice(run), *arguments)
    for name in ("last.ckpt", "previous.ckpt"):
        (run / "checkpoints" / "dense" / name).write_bytes(b"PK")
    done = vitc(*arguments)
    assert done.code == 2
    assert done.error == (
        "error: runs/scala_digits/default/checkpoints/dense/last.ckpt: damaged or truncated checkpoint, and no other "
        "checkpoint of the stage is whole; start over with --fresh\n"
    )
    assert vitc(*arguments, "--fresh", "trainer.max_epochs=1").code == 0


def test_two_processes_continue_from_the_same_checkpoint(vitc, tiny):
    """The first one decides; weights are those of a run that was not disturbed."""
    keys = ("teacher.train=false", "trainer.log_every_n_steps=1", "data.num_samples=256")
    arguments, run = ("train", "scala_digits", *tiny, OFTEN, *keys), run_of(vitc.place)
    ranks = vitc.run_ranks(2, *arguments, "run_name=whole")
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].error
    for process in both_started(vitc, saved_twice(run, "scala"), *arguments):
        process.kill()
        process.join()
    last = run / "checkpoints" / "scala" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    ranks = vitc.run_ranks(2, *arguments)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].error
    said = [rank.error.count("damaged or truncated checkpoint; the run continues") for rank in ranks]
    assert said == [1, 0]
    one, other = weights(run, "scala"), weights(run.with_name("whole"), "scala")
    assert all(torch.equal(one[name], other[name]) for name in one)


# Data


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_data_worker(finished, vitc, tiny, number):
    """The one line and nothing else, whatever ended it."""
    arguments, run = ("train", "scala_digits", *tiny, OFTEN, "data.num_workers=2"), run_of(vitc.place)
    process = started(vitc, saved_twice(run), *arguments)
    workers = children(process.pid)
    os.kill(workers[0], number)
    process.join(60)
    done = vitc.done(process)
    assert done.code == 1
    assert re.fullmatch(  # whether torch hears of the signal or misses the worker first is a matter of time
        rf"error: a data worker \(process {workers[0]}\) died: (killed by signal: [A-Z][a-z ]+|exited unexpectedly); "
        r"if (shared memory \(/dev/shm\)|memory) ran out, lower data.num_workers; "
        r"the same command continues from the last checkpoint\n", done.error,
    ), done.error  # fmt: skip
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    if number == signal.SIGKILL:
        assert vitc(*arguments).code == 0
        assert_same_end(run, finished)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Twelve images a split in two classes, one of which in `train` is no image; returns its path."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = random.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    broken = tmp_path / "pictures" / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return broken


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image(vitc, pictures, workers):
    arguments = (
        "train", "dense_digits", "data.name=folder", f"data.root={pictures.parents[2]}", "data.batch_size=4",
        "model.depth=1", "trainer.max_epochs=2", "optimizer.warmup_epochs=0", "model.in_chans=3",
        f"data.num_workers={workers}",
    )  # fmt: skip
    done = vitc(*arguments)
    assert (done.code, done.error.count("\n")) == (2, 1)
    assert not (vitc.place / "runs").exists()
    assert done.error == (
        f"error: data.root: cannot read the image {pictures} (OSError); replace it, or set data.on_error=skip\n"
    )
    evaluated = pictures.parents[2] / "val" / "cat" / "4.png"
    evaluated.write_bytes(pictures.read_bytes())
    done = vitc(*arguments, "data.on_error=skip", "run_name=skipped")
    assert done.code == 0, done.error
    assert done.error.count("1 image cannot be used and is replaced by its successor") == 1
    assert f"among them {pictures}" in done.error
    assert f"left out (data.on_error=skip), among them {evaluated}" in done.error
    assert "(seed 0), validation split, 11 images, 1 unusable image left out\n" in done.out
    run = vitc.place / "runs" / "dense_digits" / "skipped"
    document = json.loads((run / "result.json").read_text())
    assert (document["split"], document["images"], document["left_out"]) == ("validation", 11, 1)
    assert document["data"] == {name: {"images": 12, "classes": 2} for name in ("train", "validation")}
    assert "data: folder, train 12 images of 2 classes, validation 12 images of 2 classes\n" in done.out
    hits = document["rows"][0]["top1"] * 11 / 100  # of the eleven that can be read
    assert hits == pytest.approx(round(hits), abs=1e-3)
    done = vitc("evaluate", str(run))
    assert f"top-1 {document['rows'][0]['top1']:.2f} %" in done.out
    assert done.out.startswith("validation split, 11 images, 1 unusable image left out:\n")


# Two runs in one directory


def test_a_run_of_two_processes_keeps_others_out_and_its_end_lets_them_in(vitc, tiny):
    arguments, run = ("train", "scala_digits", *tiny, OFTEN, "teacher.train=false"), run_of(vitc.place)
    ranks = both_started(vitc, saved_twice(run, "scala"), *arguments)
    for process in ranks:
        os.kill(process.pid, signal.SIGSTOP)  # or it might be complete before the other one looks
    done = vitc(*arguments)
    assert (done.code, done.error) == (
        2, "error: runs/scala_digits/default: another process is running this run; wait for it or set run_name\n",
    )  # fmt: skip
    for process in ranks:
        process.kill()
        process.join()
    assert (run / ".lock").exists(), "stale, and in nobody's way"
    assert vitc(*arguments).code == 0
