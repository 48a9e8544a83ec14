"""What is timed is alone."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import work
from on_gpu.children import Failed
from on_gpu.place import Place
from on_gpu.turns import alone_in, turn
from on_gpu.units import Unit
from work import leave, run


def measured(note: Path, name: str) -> None:
    time.sleep(0.1)
    turn()
    leave(note, f"<{name}")
    time.sleep(0.2)
    leave(note, ">")


def busy(note: Path) -> None:
    for _ in range(60):  # each of which a stop may cut short
        leave(note, ".")
        time.sleep(0.02)


def test_what_is_measured_is_alone_and_others_go_on_from_where_they_were(place: Place) -> None:
    note = place.scratch / "a"
    units = [Unit("busy", partial(busy, note)), *(Unit(name, partial(measured, note, name)) for name in "12")]
    found = run(replace(place, cores=6, tiny=False), *units, Unit("3", partial(leaving, note)))
    assert {unit["status"] for unit in found.values()} == {"ok"}
    noted = note.read_text()
    assert all(one in noted for one in ("<1>", "<2>", "<3>")), noted  # nothing came between a beginning and its end
    assert noted.count(".") == 2 * 60
    assert all(noted.rindex(".") > noted.index(one) for one in ("<1>", "<2>", "<3>"))  # nobody waited for `busy`


def leaving(note: Path) -> None:
    """Alone for a while, then not."""
    alone_in("work", "counted")
    assert work.counted(note) == 3
    busy(note)


def test_time_of_being_stopped_is_not_counted(place: Place) -> None:
    units = Unit("short", partial(busy, place.scratch / "a"), limit=2.5), Unit("long", long)
    found = run(replace(place, cores=6, tiny=False), *units)
    assert {name: unit["status"] for name, unit in found.items()} == {"short": "ok", "long": "ok"}
    assert found["short"]["seconds"] < 2.5


def long() -> None:
    turn()
    time.sleep(2)


def meeting(own: Path, other: Path) -> None:
    turn()
    leave(own, "here")
    end = time.monotonic() + 30
    while not other.exists():
        if time.monotonic() > end:
            raise Failed("nobody came")
        time.sleep(0.01)


def test_at_tiny_sizes_nobody_waits_to_be_alone(place: Place) -> None:
    one, other = place.scratch / "1", place.scratch / "2"
    found = run(place, Unit("1", partial(meeting, one, other)), Unit("2", partial(meeting, other, one)))
    assert {unit["status"] for unit in found.values()} == {"ok"}
