"""Whose results are continued."""

from pathlib import Path
from typing import Any

import pytest
from on_gpu.identity import OtherResultsError, code, identity_of, scratch_of
from on_gpu.place import Place
from on_gpu.record import Record

CARD = {"device": "cuda", "card": "H200"}


def kept(place: Place, *differently: Any) -> bool:
    """Whether a unit recorded by a call is still there for another one."""
    (record := Record(place.out)).claim(identity_of(CARD, False, "a"))
    record.add("one", {"status": "ok"}, 1)
    (record := Record(place.out)).claim(identity_of(*differently))
    return record.is_settled("one")


def test_only_what_the_same_code_has_found_is_continued(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(place, CARD, False, "a")
    assert not kept(place, CARD, False, "b")
    assert [path.name for path in place.out.glob("gpu-*.json")] == [f"gpu-a-{code()}.json"]  # nothing is lost
    monkeypatch.setattr("on_gpu.identity.code", iter("xy").__next__)  # of the same commit, with a change
    assert not kept(place, CARD, False, "a")


@pytest.mark.parametrize("other", [(CARD, True, "a"), (CARD | {"card": "A100"}, False, "a"),
                                   ({"device": "cpu", "card": "H200"}, False, "a")])  # fmt: skip
def test_results_of_another_device_or_size_are_refused(place: Place, other: tuple[Any, ...]) -> None:
    with pytest.raises(OtherResultsError, match=r"^--out: .* holds results of full sizes on cuda, H200, .* folder$"):
        kept(place, *other)
    assert Record(place.out).is_settled("one")


def test_results_without_an_identity_are_set_aside(place: Place) -> None:
    Record(place.out).add("one", {"status": "ok"}, 1)
    (record := Record(place.out)).claim(identity_of(CARD, False, "a"))
    assert not record.units
    assert (place.out / "gpu-earlier.json").exists()


def test_runs_are_apart_where_records_are(tmp_path: Path) -> None:
    folders = {scratch_of(tmp_path, tmp_path / out, identity_of(CARD, tiny, commit))
               for out in "ab" for tiny in (False, True) for commit in "ab"}  # fmt: skip
    assert len(folders) == 8


def test_the_code_is_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (file := tmp_path / "benchmarks" / "a.py").write_text("a = 1")
    before = code(tmp_path)
    assert code(tmp_path) == before
    file.write_text("a = 2")
    assert code(tmp_path) != before
