"""Checks of runs fail where they should."""

import json
from pathlib import Path

import pytest
from on_gpu import trainings
from on_gpu.children import Failed
from work import leave


def test_too_few_steps_fail() -> None:
    trainings.all_taken({"dense": 2, "search": 6, "finetune": 7}, "uvc", 6)
    trainings.all_taken({"dense": 6}, "dense", 6)
    for taken, method in (({"search": 6, "finetune": 5}, "uvc"), ({"dense": 6}, "uvc"), ({"dense": 5}, "dense")):
        with pytest.raises(Failed, match=r"^stages took \{.*\} steps, not 6: it ended"):
            trainings.all_taken(taken, method, 6, "it ended")


def test_a_run_that_resumed_otherwise_fails(tmp_path: Path) -> None:
    for name, loss in (("whole", 1.0), ("killed", 1.0), ("other", 1.0000001)):
        leave(tmp_path / name / "metrics.jsonl", json.dumps({"step": 1, "loss": loss}) + "\n")
    assert trainings.same(tmp_path / "whole", tmp_path / "killed") == {"differences": 0}
    with pytest.raises(Failed, match=r"^1 differences: .*metrics.jsonl"):
        trainings.same(tmp_path / "whole", tmp_path / "other")
