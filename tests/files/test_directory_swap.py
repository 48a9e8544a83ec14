import os
import time
from pathlib import Path

import pytest

from lightning_vitc.files import directory_swap
from lightning_vitc.files.directory_swap import swapped_in

WRITER = """
from pathlib import Path
from lightning_vitc.files.directory_swap import swapped_in
for number in range(100_000):
    with swapped_in(Path(place) / "model") as folder:
        for name in ("one", "two"):
            (folder / name).write_text(str(number) * 10_000)
"""


def fill(target: Path, text: str) -> None:
    with swapped_in(target) as folder:
        (folder / "file").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_the_new_directory_takes_the_place_of_the_old(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(directory_swap, "_exchange", lambda *_: False)
    target = tmp_path / "a" / "model"
    fill(target, "old")
    (target / "left over").write_text("")
    fill(target, "new")
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("file", "new")]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_exception_leaves_the_old(tmp_path):
    fill(tmp_path / "model", "old")
    with pytest.raises(TypeError):
        fill(tmp_path / "model", 3)  # no text
    assert (tmp_path / "model" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_dead_process_left_is_removed_and_a_running_ones_is_not(tmp_path):
    dead, alive = tmp_path / ".model.4194304.tmp", tmp_path / f".model.{os.getppid()}.tmp"
    for folder in (dead, alive):
        folder.mkdir()
    fill(tmp_path / "model", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "model"]


def test_what_a_dead_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    """In a container the next export often has the number of the one that was killed."""
    left = tmp_path / f".model.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half").write_text("")
    fill(tmp_path / "model", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["file"]


def test_killed_at_any_moment_there_is_one_whole_directory(tmp_path, fork):
    """A writer that replaces the directory all the time; a reader in between, and kills."""
    target = tmp_path / "model"
    for _ in range(5):
        process = fork(WRITER, place=str(tmp_path))
        until = time.monotonic() + 0.4
        while time.monotonic() < until or not target.exists():
            assert process.is_alive()
            time.sleep(0.001)
        process.kill()
        process.join()
        one, two = ((target / name).read_text() for name in ("one", "two"))
        assert one == two
        assert len(one) >= 10_000
