import pytest

from lightning_vitc.errors import UserError
from lightning_vitc.sweeping.combinations import combinations, split


@pytest.mark.parametrize(("text", "values"), [
    ("0,1,2", ["0", "1", "2"]), ("40%, 50%", ["40%", "50%"]), ("[0.1, 0.2],[0.5, 0.5]", ["[0.1, 0.2]", "[0.5, 0.5]"]),
    ("'a,b',c", ["'a,b'", "c"]), ("[1,2]", ["[1,2]"]), ("", [""]),
])  # fmt: skip
def test_values_between_commas(text, values):
    assert list(split(text)) == values


def names(*overrides: str) -> list[str]:
    return [each.experiment.run_name for each in combinations("uvc_digits", overrides, check_files=False)]


def test_every_combination_has_a_run():
    runs = combinations("uvc_digits", ["seed=0,1", "budget.macs=40%,50%", "trainer.max_epochs=3"], check_files=False)
    assert [run.values for run in runs] == [
        {"seed": "0", "budget.macs": "40%"}, {"seed": "0", "budget.macs": "50%"},
        {"seed": "1", "budget.macs": "40%"}, {"seed": "1", "budget.macs": "50%"},
    ]  # fmt: skip
    last = runs[3].experiment
    assert (last.seed, last.budget.macs, last.trainer.max_epochs, last.run_name) == (1, "50%", 3, "seed1-macs50pct")
    assert str(runs[3].directory) == "runs/uvc_digits/seed1-macs50pct"


def test_names():
    assert names("seed=0") == ["default"]
    assert names("seed=0,1", "run_name=x") == ["x-seed0", "x-seed1"]
    assert names("method.skip=block,none") == ["skipblock", "skipnone"]
    assert names("data.scale=[0.5, 1],[0.2, 1]") == ["scale_0.5_1", "scale_0.2_1"]
    two = names("optimizer.warmup_epochs=1,2", "teacher.warmup_epochs=0")
    assert two == ["warmup_epochs1", "warmup_epochs2"]
    assert names("optimizer.lr=1e-3,2e-3", "teacher.lr=1e-3,2e-3")[0] == "optimizer.lr1e-3-teacher.lr1e-3"


@pytest.mark.parametrize(("overrides", "said"), [
    (["seed=0,,1"], "'0,,1': a value between commas is empty"),
    (["seed=0,1,0"], "two runs would be called seed0; give every value once"),
    (["seed=0,x"], r"seed: .*\(with seed=x\)"),
    (["method.name=uvc,one_shot"], r"method 'one_shot' knows .*\(with method.name=one_shot\)"),
    (["seed=0,1", "seed=5"], "seed: given twice; name all of its values at once, between commas"),
    (["seed"], "'seed': an override has the form key=value"),
])  # fmt: skip
def test_mistakes_are_answered_before_anything_runs(overrides, said):
    with pytest.raises(UserError, match=said):
        combinations("uvc_digits", overrides, check_files=False)
