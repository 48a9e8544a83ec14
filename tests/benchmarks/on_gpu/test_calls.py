"""Calls of the script, one after another."""

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import gpu
import pytest
from on_gpu.place import Place
from on_gpu.record import Record
from on_gpu.units import Unit
from work import fail, hang, leave, odd, skip

CARD = {"device": "cuda", "card": "H200"}


@pytest.fixture
def call(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The script from where torch is there, with units of its own."""

    def called(*units: Unit, seconds: float = 60, **options: Any) -> int:
        monkeypatch.setattr(gpu, "AHEAD", ())
        monkeypatch.setattr("on_gpu.machine.found", lambda _: CARD)
        monkeypatch.setattr("on_gpu.tiers.units_of", lambda *_: units)
        given = {"tiny": True, "data": None, "again": False, "commit": "a", "tier": "check", **options}
        args = Namespace(tiers=["check"], seconds={"check": seconds}, **given)
        return gpu.run(args, "cpu", place.out, place.scratch, {"wheels": [], "began": time.monotonic()})

    monkeypatch.setenv("XDG_CACHE_HOME", "")  # restored at the end
    return called


def test_a_call_continues_one_alike(place: Place, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    note = place.scratch / "a"
    unit = Unit("check/one", partial(leave, note, "a"))
    assert [call(unit), call(unit), note.read_text()] == [0, 0, "a"]
    (own,) = (path for path in place.scratch.iterdir() if path.is_dir())
    (run := own / "runs" / "finished").mkdir(parents=True)
    assert [call(unit, commit="b"), note.read_text()] == [0, "aa"]
    assert run.exists()
    assert [call(unit), note.read_text(), run.exists()] == [0, "aaa", False]  # its runs count no more than its record
    assert call(unit, tiny=False) == 2
    assert capsys.readouterr().err.startswith("error: --out: ")
    assert note.read_text() == "aaa"


def test_an_incomplete_tier_is_not_green(place: Place, call: Callable[..., int], capsys: Any) -> None:
    good = Unit("check/good", partial(leave, place.scratch / "a", "a"))
    units = [good, Unit("check/slow", hang), Unit("check/after", fail, after=("check/slow",))]
    assert call(*units, seconds=1) == gpu.INCOMPLETE
    assert "incomplete: 2 unfinished" in capsys.readouterr().err
    found = Record(place.out).units
    assert {name: unit["status"] for name, unit in found.items()} == {
        "check/good": "ok", "check/slow": "unfinished", "check/after": "unfinished",
    }  # fmt: skip
    assert found["check/after"]["reason"] == "not begun before the 1 s were over"
    assert "| after | unfinished | not begun" in (place.out / "gpu.md").read_text()
    assert call(good, Unit("check/bad", fail)) == gpu.INCOMPLETE
    assert call(good, Unit("check/none", skip)) == 0  # of this tier, nothing is left to do


def test_what_was_skipped_is_tried_again(place: Place, call: Callable[..., int]) -> None:
    note = place.scratch / "a"
    units = partial(leave, note, "a"), partial(leave, note, "b")
    call(Unit("check/none", skip), Unit("check/after", fail, after=("check/none",)))
    assert call(Unit("check/none", units[0]), Unit("check/after", units[1], after=("check/none",))) == 0
    assert note.read_text() == "ab"


def test_what_waits_for_a_failure_is_freed_with_it(place: Place, call: Callable[..., int]) -> None:
    after = Unit("check/after", partial(leave, place.scratch / "a", "a"), after=("check/bad",))
    call(Unit("check/bad", fail), after)
    mended = Unit("check/bad", partial(leave, place.scratch / "b", "b"))
    assert call(mended, after) == gpu.INCOMPLETE  # a failure stays one
    assert Record(place.out).status("check/after") == "skipped"
    assert call(mended, after, again=True) == 0
    assert (place.scratch / "a").read_text() == "a"


def test_values_that_fit_no_table_cost_nothing_else(place: Place, call: Callable[..., int]) -> None:
    note = place.scratch / "a"
    units = Unit("check/memory/dense", odd), Unit("speed/loader", partial(leave, note, "a"), after=("bad",))
    assert call(*units, Unit("bad", fail), Unit("good", partial(leave, note, "a"))) == gpu.INCOMPLETE
    assert {name: unit["status"] for name, unit in Record(place.out).units.items()} == {
        "check/memory/dense": "ok", "bad": "failed", "good": "ok", "speed/loader": "skipped",
    }  # fmt: skip
    tables = (place.out / "gpu.md").read_text()
    assert "### Check\n\n1 ok." in tables
    assert "\n\n**Check ends here:** KeyError: 'bytes'\n\n" in tables
    assert "| bad | failed | it is not right |" in tables
