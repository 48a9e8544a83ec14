"""A command that a signal ends says so in one line; in a training, see `training/test_interruption.py`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_vitc import cli
from lightning_vitc.commands import list as command
from lightning_vitc.errors import Interrupted
from lightning_vitc.errors.signals import SIGNALS, taken_over


@pytest.fixture(autouse=True)
def _nothing_is_ignored():
    """As in a terminal: a shell in the background starts what it starts with some signals ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS if number != signal.SIGINT}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_of_a_command(monkeypatch, capsys, number):
    before = [signal.getsignal(one) for one in SIGNALS]
    monkeypatch.setattr(command, "run", lambda args: signal.raise_signal(number))
    assert cli.main(["list"]) == 128 + number
    said = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}; nothing is half written"
    assert capsys.readouterr() == ("", f"{said}\n")
    assert [signal.getsignal(one) for one in SIGNALS] == before


# Modules of C++ do either with an exception that a signal's handler raises while they are initialized.
SWALLOWS = """
import signal
try:
    signal.raise_signal({number})
except BaseException:
    pass
raise ImportError("generic_type: already registered")
"""
COMMAND = """
import lightning_vitc.commands.list as command, sys
from lightning_vitc import cli
command.run = lambda args: print("so far") or __import__("swallows")
sys.exit(cli.main(["list"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_in_an_import_it_leaves_at_once(tmp_path, number):
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(number=int(number)))
    path = {"PYTHONPATH": f"{tmp_path}:{Path(cli.__file__).parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], check=False, capture_output=True, text=True, env=os.environ | path
    )
    said = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}; nothing is half written"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "so far\n", f"{said}\n")


def test_what_is_to_be_ignored_stays_so():
    """As `nohup` wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        taken = taken_over(lambda *_: None, but=signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert taken.keys() == {*SIGNALS} - {signal.SIGINT, signal.SIGHUP}
        for number, handler in taken.items():
            signal.signal(number, handler)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_that_handles_errors_takes_it_for_one():
    """Such as what reads a file that may be damaged."""
    assert not issubclass(Interrupted, Exception)
