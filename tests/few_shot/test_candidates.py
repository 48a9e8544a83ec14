"""Block trials: which candidates are a stage, and the room that their checkpoints take."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_vitc import costs
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot import candidates
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory


def run_in(place: Path, count: int = 1, read_only: bool = False) -> Pipeline:
    """A run of so many processes, of which only their number is looked at."""
    experiment = load_experiment("dcvit_digits", [f"output_dir={place}"])
    run = Pipeline(experiment, RunDirectory(place / "run"), read_only)
    run.processes = SimpleNamespace(count=count, rank=0, wait=lambda: None)  # type: ignore[assignment]
    return run


def stages_of(run: Pipeline, number: int, at_once: int, monkeypatch: Any) -> dict[str, list[str]]:
    """The networks of every stage that `tried` spreads, by their names."""
    seen: dict[str, list[str]] = {}

    def spread(stages: Any) -> list[Any]:
        seen.update({name: list(build()) for name, build in stages.items()})
        return [SimpleNamespace(networks=dict.fromkeys(names)) for names in seen.values()]

    monkeypatch.setattr(run, "spread", spread)
    found = candidates.tried(run, range(number), at_once, lambda block: torch.nn.Identity(), lambda given: given)
    assert list(found) == list(range(number))
    return seen


@pytest.mark.parametrize(("number", "at_once", "count", "sizes"), [
    (10, 4, 1, [4, 4, 2]), (10, 4, 3, [4, 4, 2]), (10, 4, 5, [2] * 5), (10, 4, 10, [1] * 10), (10, 4, 16, [1] * 10),
    (10, 1, 2, [1] * 10), (3, 4, 2, [2, 1]),
])  # fmt: skip
def test_no_process_is_idle_while_another_has_several(tmp_path, monkeypatch, number, at_once, count, sizes):
    stages = stages_of(run_in(tmp_path, count), number, at_once, monkeypatch)
    assert [len(names) for names in stages.values()] == sizes


def test_stages_stay_as_they_were_decided(tmp_path, monkeypatch):
    """Continued by fewer processes, with another `at_once`, or read later."""
    first = stages_of(run_in(tmp_path, count=5), 10, 4, monkeypatch)
    for run in (run_in(tmp_path), run_in(tmp_path, read_only=True)):
        assert stages_of(run, 10, 3, monkeypatch) == first


def test_a_run_without_the_record_has_stages_of_at_once(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints" / "trials_0").mkdir(parents=True)
    for run in (run_in(tmp_path, count=5, read_only=True), run_in(tmp_path, count=5)):
        stages = stages_of(run, 10, 4, monkeypatch)
        assert [len(names) for names in stages.values()] == [4, 4, 2]


def room(monkeypatch: Any, run: Pipeline, checkpoints: float) -> None:
    """A disk with room for so many checkpoints."""
    free = int(checkpoints * 3 * 4 * costs.params(run.dense_spec))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))


def done(run: Pipeline, stage: str, blocks: list[int]) -> None:
    file, folder = run.directory.path / "trials.json", run.directory.stage(stage)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done.json").write_text("{}")
    stages = candidates.read_stages(run.directory.path) | {stage: blocks}
    file.write_text(json.dumps({"stages": stages}))


def test_room_for_three_checkpoints_of_what_is_trained_and_one_of_the_others(tmp_path, monkeypatch):
    run = run_in(tmp_path)
    room(monkeypatch, run, 6 + 2 * 2)
    candidates.must_have_room(run, 6, at_once=2)
    room(monkeypatch, run, 6 + 2 * 2 - 0.01)
    with pytest.raises(UserError, match=r"^output_dir: 6 candidates take up to .* free; name another place"):
        candidates.must_have_room(run, 6, at_once=2)


def test_finished_trials_need_no_room(tmp_path, monkeypatch):
    run = run_in(tmp_path)
    done(run, "trials_0", [1, 2, 3, 4])
    room(monkeypatch, run, 2 * 3)
    candidates.must_have_room(run, 6, at_once=2)
    room(monkeypatch, run, 2 * 3 - 0.01)
    with pytest.raises(UserError, match=r"^output_dir: 2 candidates take up to"):
        candidates.must_have_room(run, 6, at_once=2)
    done(run, "trials_4", [5, 6])
    room(monkeypatch, run, 0)
    candidates.must_have_room(run, 6, at_once=2)


def test_what_an_interrupted_stage_has_saved_will_be_replaced(tmp_path, monkeypatch):
    run = run_in(tmp_path)
    folder = run.directory.stage("trials_0")
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(bytes(2 * 3 * 4 * costs.params(run.dense_spec)))
    room(monkeypatch, run, 2 * 3 - 2)
    candidates.must_have_room(run, 2, at_once=2)


def test_a_full_disk_does_not_keep_anyone_from_reading(tmp_path, monkeypatch):
    run = run_in(tmp_path, read_only=True)
    room(monkeypatch, run, 0)
    candidates.must_have_room(run, 6, at_once=2)


def test_the_lower_number_comes_first_where_scores_are_equal():
    ranked = candidates.ranking({4: 0.5, 2: 0.5, 3: 0.25}, more=1)
    assert ranked == {"order": [3, 2, 4], "scores": {"4": 0.5, "2": 0.5, "3": 0.25}, "more": 1}
