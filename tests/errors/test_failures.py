import errno
import threading

import pytest

from lightning_vitc.errors.failures import disk_error, explained, ignore_in_threads


def test_a_full_disk_is_found_among_the_causes():
    full = OSError(errno.ENOSPC, "No space left on device")
    error = RuntimeError("unexpected pos")
    error.__context__ = ValueError("in between")
    error.__context__.__cause__ = full
    assert disk_error(error) is full
    assert disk_error(OSError(errno.ENOENT, "No such file")) is None


@pytest.mark.timeout(5)
def test_causes_that_go_round_in_a_circle_have_an_end():
    error, cause = RuntimeError("one"), ValueError("the other")
    error.__cause__, cause.__context__ = cause, error
    assert disk_error(error) is None


def test_a_dead_worker_is_found_among_the_causes():
    """Lightning closes its loggers and the loader meanwhile, which may fail in turn."""
    error = AttributeError("no iterator")
    error.__context__ = RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that")
    assert explained(error) == (
        "a data worker (process 12) died: killed by signal: Bus error; if shared memory (/dev/shm) ran out, lower "
        "data.num_workers; the same command continues from the last checkpoint"
    )
    assert explained(AttributeError("a fault of the program")) is None


@pytest.mark.parametrize(("number", "shown"), [(errno.ENOSPC, ""), (errno.ENOENT, "FileNotFoundError: [Errno 2] x\n")])
def test_a_thread_that_a_full_disk_ends_writes_no_traceback(capsys, monkeypatch, number, shown):
    def fail() -> None:
        raise OSError(number, "x")

    monkeypatch.setattr(threading, "excepthook", ignore_in_threads)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    error = capsys.readouterr().err
    assert error.endswith(shown)
    assert bool(error) == bool(shown)
