"""`metrics.jsonl`: what a resumed run forgets."""

import json

import pytest
from lightning.pytorch.utilities import rank_zero_only

from lightning_vitc.files.records import opened
from lightning_vitc.runs.metrics_file import MetricsFile


@pytest.fixture
def metrics(tmp_path):
    file = MetricsFile(tmp_path, "scala")
    MetricsFile(tmp_path, "dense").log_metrics({"loss": 9.0, "epoch": 7}, 99)
    for step in range(5):
        file.log_metrics({"loss": step / 2, "epoch": 0}, step)
    return file


def steps(metrics: MetricsFile, stage: str = "scala") -> list[int]:
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    return [line["step"] for line in lines if line["stage"] == stage]


def test_lines(metrics):
    first = metrics.path.read_text().splitlines()[1]
    assert opened(first) == {"stage": "scala", "step": 0, "epoch": 0, "loss": 0.0}
    metrics.log_metrics({"lr": 0.1}, 5)
    assert json.loads(metrics.path.read_text().splitlines()[-1])["epoch"] is None


@pytest.mark.parametrize("step", range(7))
def test_steps_that_come_again_are_forgotten(metrics, step):
    """After `step` optimizer steps the next one has this number."""
    metrics.forget_from(step)
    assert steps(metrics) == list(range(min(step, 5)))
    assert steps(metrics, "dense") == [99]


def test_a_torn_line_is_forgotten(metrics):
    with metrics.path.open("a") as file:
        file.write('{"stage": "scala", "ste')
    metrics.forget_from(4)
    assert steps(metrics) == [0, 1, 2, 3]
    metrics.log_metrics({"loss": 1.0}, 4)
    assert steps(metrics) == [0, 1, 2, 3, 4]


def test_nothing_to_forget(tmp_path):
    MetricsFile(tmp_path, "dense").forget_from(0)
    assert not list(tmp_path.iterdir())


def test_other_ranks_leave_the_file_alone(metrics, monkeypatch):
    before = metrics.path.read_text()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    metrics.forget_from(0)
    metrics.log_metrics({"loss": 1.0}, 9)
    assert metrics.path.read_text() == before
