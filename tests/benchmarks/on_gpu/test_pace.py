"""How many epochs there is time for."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from on_gpu import pace, processes, study
from on_gpu.children import Failed
from on_gpu.place import Place

STARTING, EVERY = 1.0, 0.02  # seconds


def training(folder: Path, name: str) -> None:
    time.sleep(STARTING)
    (folder / name).mkdir(parents=True)
    for step in range(10_000):
        time.sleep(EVERY)
        with (folder / name / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")


def pretended(function: Callable[..., None], place: Place, *arguments: str, **_: Any) -> tuple[Any, Callable[[], Any]]:
    name = arguments[-1].removeprefix("run_name=")
    process = processes.started(function, study.run_of(place, "study_dense", "pace", 0).parent, name)
    return process, lambda: type("Done", (), {"code": 7, "last_line": "no"})


def test_starting_is_no_part_of_the_pace(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "start_vitc", partial(pretended, training))
    monkeypatch.setattr(pace, "WINDOW", 1.0)
    found = pace.paced(replace(place, tiny=False), 1000)
    assert found["runs"] == 2
    assert 0.6 < found["steps_per_second"] * EVERY / 2 <= 1.05  # of both together; the machine may be busy
    assert STARTING <= found["seconds_to_start"] < 5 * STARTING
    left = 1000 - 3 * found["seconds_to_start"] - 1
    assert found["epochs"] == pytest.approx(left * found["steps_per_second"] / (20 * 87), abs=3)
    assert not [line for line in os.popen("ps -eo args") if str(place.scratch) in line]


def test_a_run_that_ends_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "start_vitc", partial(pretended, ending))
    with pytest.raises(Failed, match=r"^a run for the pace ended with 7: no$"):
        pace.paced(replace(place, tiny=False), 1000)


def ending(folder: Path, name: str) -> None:
    pass
