"""Units: none stops another, none is done twice."""

import time
from dataclasses import replace
from functools import partial

import pytest
from on_gpu.place import Place
from on_gpu.record import Record
from on_gpu.units import NEEDS_CUDA, Unit
from work import crash, fail, hang, leave, odd, run, skip


def test_nothing_stops_the_others(place: Place) -> None:
    units = [Unit("bad", fail), Unit("gone", crash), Unit("slow", hang, limit=0.5), Unit("none", skip),
             Unit("typo", partial(int, "x")), Unit("cuda", fail, needs_cuda=True), Unit("after", fail, after=("bad",)),
             Unit("good", partial(leave, place.scratch / "a", "a"))]  # fmt: skip
    found = run(place, *units)
    assert {name: (unit["status"], unit.get("reason")) for name, unit in found.items()} == {
        "bad": ("failed", "it is not right"),
        "gone": ("failed", "the process was killed by SIGKILL"),
        "slow": ("failed", "did not end within 0 s"),
        "none": ("skipped", "there is no such thing here"),
        "typo": ("failed", "ValueError: invalid literal for int() with base 10: 'x'"),
        "cuda": ("skipped", NEEDS_CUDA),
        "after": ("skipped", "bad is failed: it is not right"),
        "good": ("ok", None),
    }
    assert "invalid literal" in found["typo"]["traceback"]


def test_what_is_recorded_is_not_done_again(place: Place) -> None:
    note = place.scratch / "a"
    again = Unit("one", partial(leave, note, "a"))
    run(place, again)
    run(place, again)
    assert note.read_text() == "a"
    product = place.scratch / "product"
    made = Unit("made", partial(leave, product, "p"), product=product)
    run(place, made)
    product.unlink()
    run(place, made, Unit("later", partial(leave, note, "b"), after=("made",)))  # needs it
    assert (product.read_text(), note.read_text()) == ("p", "ab")


def test_failures_are_done_again_when_that_is_asked_for(place: Place) -> None:
    run(place, Unit("one", fail))
    assert run(place, Unit("one", partial(leave, place.scratch / "a", "a")))["one"]["status"] == "failed"
    record = Record(place.out)
    record.forget_failures()
    record.write()
    assert run(place, Unit("one", partial(leave, place.scratch / "a", "a")))["one"]["status"] == "ok"


def test_a_tier_ends_by_itself_and_can_be_continued(place: Place) -> None:
    began = time.monotonic()
    found = run(place, Unit("slow", hang), Unit("other", hang), seconds=1)
    assert time.monotonic() - began < 10
    assert {unit["status"] for unit in found.values()} == {"unfinished"}
    assert run(place, Unit("slow", partial(leave, place.scratch / "a", "a")))["slow"]["status"] == "ok"


def test_a_document_that_cannot_be_written_costs_no_unit(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.out / "gpu.md").mkdir(parents=True)
    assert run(place, Unit("one", odd))["one"]["status"] == "ok"
    assert capsys.readouterr().out.count("gpu.md is not written: IsADirectoryError") == 1


def test_a_smaller_one_does_not_overtake(place: Place) -> None:
    note = place.scratch / "a"
    units = [Unit("first", partial(leave, note, "1")), Unit("large", partial(leave, note, "2"), slots=2),
             Unit("small", partial(leave, note, "3"))]  # fmt: skip
    run(replace(place, cores=4), *units)  # two slots
    assert note.read_text().startswith("12")
