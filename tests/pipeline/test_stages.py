"""A stage that does not get to train is not taken for one that is finished."""

from types import SimpleNamespace

import pytest
from torch import nn

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.pipeline import stages
from lightning_vitc.pipeline.stages import Stages


def test_time_that_is_over_before_a_step(tmp_path, monkeypatch):
    """Lightning looks at the clock before the first batch too."""
    experiment = load_experiment("dense_digits", ["trainer.max_time='00:00:00:01'"])
    trainer = SimpleNamespace(fit=lambda *_, **__: None, global_step=0, is_global_zero=True)
    monkeypatch.setattr(stages, "stage_trainer", lambda *_, **__: trainer)
    directory = SimpleNamespace(path=tmp_path, stage=lambda _: tmp_path, is_continued=False)
    with pytest.raises(UserError, match=r"^trainer\.max_time: 00:00:00:01 ended stage dense before a step; give it"):
        Stages(experiment, directory).fit("dense", nn.Module, data=object(), alone=True)  # type: ignore[arg-type]
    assert not (tmp_path / "done.json").exists()
