from pathlib import Path

import pytest

from lightning_vitc.commands.show import as_yaml
from lightning_vitc.config import dump, experiments, load_experiment
from lightning_vitc.config.explained import explained
from lightning_vitc.errors import UserError

GIVEN = "budget.macs=40%"


def test_where_each_value_comes_from():
    keys = explained("uvc_digits", [GIVEN])
    assert keys["budget.macs"][:2] == ("40%", "command line")
    every = "optimizer steps between updates of the gates"
    assert keys["method.gate_every"] == (4, "experiments/uvc_digits.yaml", every)
    assert keys["model.depth"][:2] == (8, "base/deep_digits.yaml")  # which is above `base/digits.yaml`
    assert keys["data.name"][:2] == ("digits", "base/digits.yaml")
    assert keys["method.cut_lr"] == (0.005, "default", "of s and r, in shares of a block a step")  # of its base class
    assert keys["callbacks.pruning_schedule.end"][1] == "base/uvc.yaml"
    assert keys["budget.min_keep.heads"].comment == "of a block that keeps its attention"
    assert not any(key.comment.startswith(("fmt:", "noqa")) for key in keys.values())


@pytest.mark.parametrize("name", ["uvc_digits", "scala_deit_s", "dcvit_resnet34"])
def test_what_is_shown_is_the_experiment(name, tmp_path):
    (tmp_path / "mine.yaml").write_text(as_yaml(explained(name)))
    again = load_experiment(str(tmp_path / "mine.yaml"), check_files=False)
    assert again == load_experiment(name, check_files=False)


def test_experiments_of_every_kind_can_be_shown():
    for name in [*experiments()][::9]:
        assert explained(name)["method.name"].comment


def test_of_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text(dump(load_experiment("uvc_digits", [GIVEN, "seed=3"], check_files=False)))
    keys = explained(str(tmp_path))
    assert {name for name, key in keys.items() if key.source == "this run"} == {"budget.macs", "seed"}
    assert keys["model.depth"][:2] == (8, "base/deep_digits.yaml")
    with pytest.raises(UserError, match=r"seed=4: .* is a run, whose keys are settled; leave it out"):
        explained(str(tmp_path), ["seed=4"])


def test_an_experiment_that_is_no_longer_there(tmp_path):
    (tmp_path / "own.yaml").write_text("base: [uvc_digits]\n")
    (tmp_path / "config.yaml").write_text(dump(load_experiment(str(tmp_path / "own.yaml"), check_files=False)))
    assert {key.source for key in explained(str(tmp_path)).values()} == {"this run"}


def test_the_help_of_train_has_the_keys(capsys, monkeypatch):
    from lightning_vitc.cli import main

    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["train", "uvc_digits", "--help"]) == 0
    assert "gate_every: 4  # [experiments/uvc_digits.yaml] optimizer steps" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "gate_every" not in capsys.readouterr().out
