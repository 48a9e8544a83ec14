"""One process in a folder; and no trace of one that withdraws."""

from pathlib import Path

import pytest

from lightning_vitc.files.folder_lock import FolderLock

TRY = """
from pathlib import Path
from lightning_vitc.files.folder_lock import FolderLock
FolderLock(Path(folder)).take()
"""


def is_free(folder: Path, fork) -> bool:
    process = fork(TRY, folder=str(folder))
    process.join(60)
    return process.exitcode == 0


def test_one_at_a_time(tmp_path, fork):
    lock = FolderLock(tmp_path / "a" / "b")
    lock.take()
    assert not is_free(lock.folder, fork)
    lock.release()
    assert is_free(lock.folder, fork)
    assert [file.name for file in lock.folder.iterdir()] == [".lock"]


def test_withdrawing_removes_what_was_made_and_is_empty(tmp_path):
    (tmp_path / "a").mkdir()
    lock = FolderLock(tmp_path / "a" / "b" / "c")
    lock.take()
    lock.withdraw()
    assert not list((tmp_path / "a").iterdir())
    lock.take()
    (tmp_path / "a" / "b" / "other").touch()
    lock.withdraw()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "other"]


def test_withdrawing_from_a_lock_that_was_there(tmp_path, fork):
    lock = FolderLock(tmp_path / "run")
    lock.take()
    lock.release()
    for whole in (False, True):
        lock.take()
        lock.withdraw(whole)
        assert lock.folder.exists() != whole
        assert is_free(lock.folder, fork)


def test_a_folder_that_goes_while_it_is_locked_is_made_again(tmp_path, monkeypatch, fork):
    """Else two processes would hold two files, of which one is nobody's."""
    import fcntl

    take, lock = fcntl.lockf, FolderLock(tmp_path / "run")

    def late(*arguments):
        monkeypatch.setattr(fcntl, "lockf", take)
        lock.path.unlink()
        lock.folder.rmdir()  # by a process that withdraws
        return take(*arguments)

    monkeypatch.setattr(fcntl, "lockf", late)
    lock.take()
    assert not is_free(lock.folder, fork)


def test_what_could_not_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        FolderLock(tmp_path / "file" / "run").take()
    with pytest.raises(OSError, match=r"File name too long|No such"):
        FolderLock(tmp_path / "a" / ("x" * 300)).take()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
