"""No process outlives the one that has started it."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from on_gpu import processes
from on_gpu.children import outcome_of
from on_gpu.commands import start_vitc
from on_gpu.place import Place
from on_gpu.record import Record
from on_gpu.units import Tier, Unit
from work import hang, leave, run


def grandchild(place: Place) -> None:
    process, _ = start_vitc(place, "--version")
    process.join()
    assert process.exitcode == 0
    hang()


def test_all_that_a_unit_has_started_ends_with_it(place: Place) -> None:
    run(place, Unit("one", partial(grandchild, place), limit=5))
    assert not [line for line in os.popen("ps -eo pid,stat,args") if str(place.scratch) in line]
    assert any(path.read_text().startswith("vitc ") for path in (place.scratch / "commands").glob("*.out"))


def test_outcomes() -> None:
    assert outcome_of(lambda: {"a": 1}) == {"status": "ok", "values": {"a": 1}}
    assert outcome_of(lambda: None) == {"status": "ok", "values": {}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_script_that_is_stopped_leaves_no_process_behind(number: int, place: Place) -> None:
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored behind `nohup`, which the script would go by
        script(place)
    notes = [place.scratch / name for name in ("one", "two")]
    until(lambda: all(note.exists() for note in notes))
    began = time.monotonic()
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    assert time.monotonic() - began < 5
    assert os.waitstatus_to_exitcode(status) == (-number if number == signal.SIGKILL else 128 + number)
    left = [int(word) for note in notes for word in note.read_text().split()]
    assert len(left) == 4
    until(lambda: not any(alive(one) for one in left))


def script(place: Place) -> None:
    """As `gpu.py` ends; never returns."""
    code = 1
    try:
        processes.stop_by_signals()
        units = [Unit(name, partial(with_a_child, place.scratch / name)) for name in ("one", "two")]
        Tier(units, replace(place, cores=6, tiny=False), Record(place.out), 60).run()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    finally:
        os._exit(code)


def with_a_child(note: Path) -> None:
    child = processes.started(hang)
    leave(note, f"{os.getpid()} {child.pid}")
    hang()


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        processes.stop_by_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # of `nohup`
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
