"""What `vitc plan --compare` says every method would build keeps to the budget, and is what the methods plan."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_vitc import cli, costs
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.block_plan import BlockPlan
from lightning_vitc.latency import measuring
from lightning_vitc.latency.place import Place
from lightning_vitc.measuring.comparison import METHODS, compare, experiment_for
from lightning_vitc.methods.dcvit import DCViT
from lightning_vitc.pipeline.initial_network import template

MODEL = "deit_tiny_patch16_224"
SMALL = ("model.img_size=32", "model.patch_size=8", "model.depth=6", "model.embed_dim=192")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A machine that takes a nanosecond a MAC; how many networks it was asked for."""
    asked: list[int] = []

    def in_turns(specs: Any, place: Place) -> dict[str, list[float]]:
        asked.append(len(specs))
        return {name: [1e-6 * costs.macs(spec)] for name, spec in specs.items()}

    monkeypatch.setattr(measuring, "in_turns", in_turns)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return asked


def rows_of(document: dict[str, Any]) -> dict[str, Any]:
    return {row["method"]: row for row in document["rows"]}


@pytest.mark.parametrize("share", [35, 60, 85])
def test_every_network_keeps_to_a_budget_of_macs(world, share):
    document = compare(MODEL, [*SMALL, f"budget.macs={share}%"])
    limit, rows = document["budget"]["macs"], rows_of(document)
    assert limit == share * document["dense"]["macs"] // 100
    assert list(rows) == list(METHODS)
    for row in rows.values():
        assert 0.85 * limit <= row["macs"] <= limit, row
        assert row["params"] <= document["dense"]["params"]
    assert rows["uvc"]["blocks"] <= 6
    assert rows["usdc"]["blocks"] == 6
    assert "branches run" in rows["usdc"]["note"]
    assert rows["scala"]["embed_dim"] < 192
    assert not world, "nothing is measured unless it is asked for"
    assert document["place"] is None
    assert all(row["latency_ms"] is None for row in rows.values())


def test_dcvit_is_its_own_plan(world):
    overrides = [*SMALL, "budget.macs=70%"]
    row = rows_of(compare(MODEL, overrides))["dcvit"]
    experiment = experiment_for("dcvit", MODEL, overrides)
    spec = template(experiment.model, 1000).spec
    plan = DCViT.plan(spec, experiment).details
    small = BlockPlan(plan["blocks"], plan["hidden"]).apply(spec, range(spec.depth))
    assert (row["macs"], row["params"]) == (costs.macs(small), costs.params(small))
    assert row["attentions"] == 6 - plan["blocks"]


def test_a_budget_of_latency_measures_once_and_says_what_is_expected(world):
    document = compare(MODEL, [*SMALL, "budget.latency_ms=60%"])
    limit = document["budget"]["latency_ms"]
    for row in document["rows"]:
        assert 0.8 * limit <= row["latency_ms"] <= 1.05 * limit, row
        assert row["latency_ms"] == pytest.approx(1e-6 * row["macs"], rel=0.06)
    assert document["dense"]["latency_ms"] == pytest.approx(1e-6 * document["dense"]["macs"], rel=1e-3)
    asked = list(world)
    again = compare(MODEL, [*SMALL, "budget.latency_ms=60%"])
    assert (world, again) == (asked, document)
    known = compare(MODEL, [*SMALL, "budget.macs=60%"])
    assert world == asked
    assert all(row["latency_ms"] > 0 for row in known["rows"]), "what is known is shown"


def test_latencies_on_request(world):
    document = compare(MODEL, [*SMALL, "budget.macs=60%"], latency=True)
    assert world
    assert all(row["latency_ms"] == pytest.approx(1e-6 * row["macs"], rel=0.06) for row in document["rows"])
    assert document["place"]["device"] == "cpu"


def test_who_cannot_reach_it_says_why(world):
    rows = rows_of(compare(MODEL, [*SMALL, "budget.params=50%"]))
    assert not rows["usdc"]["reached"]
    assert rows["usdc"]["note"].startswith("budget.params: the method 'usdc' does not know it")
    assert rows["uvc"]["reached"]
    rows = rows_of(compare(MODEL, [*SMALL, "budget.macs=8%"]))
    assert not rows["dcvit"]["reached"]
    assert rows["scala"]["note"] == "width 0.25"


def test_a_warning_of_a_method_is_a_note(world, recwarn):
    rows = rows_of(compare(MODEL, [*SMALL, "budget.macs=50%"]))
    assert "it collapses beyond 40 %" in rows["dcvit"]["note"]
    assert not [warning for warning in recwarn if "collapses" in str(warning.message)]


@pytest.mark.parametrize(("overrides", "message"), [
    (["budget.macs=1%"], r"^no method reaches the budget; UVC: budget.macs: 1% is [\d,]+, out of reach"),
    ([], r"^budget.macs: not set; give one of budget.macs and budget.params"),
    (["budget.mac=50%"], "^budget.mac: unknown key; did you mean 'budget.macs'"),
    (["method.skip=none"], r"^method.skip: --compare takes keys of model, budget, threads; of its own a method has"),
    (["budget.drop_blocks=2"], "^budget.drop_blocks: "),
    (["budget.macs=50%", "budget.latency_ms=3"], "^budget.latency_ms: set beside budget.macs; give one of them$"),
    (["budget.latency_ms=fast"], r"^budget.latency_ms: 'fast' is not a latency; write milliseconds such as 12.5, or"),
    (["budget.latency_ms=900"], r"^budget.latency_ms: 900 is more than the dense model's [\d.]+ ms$"),
    (["budget.batch_size=2", "budget.macs=50%"], "^budget.batch_size: has no effect without budget.latency_ms"),
])  # fmt: skip
def test_mistakes_are_one_line(world, overrides, message):
    with pytest.raises(UserError, match=message):
        compare(MODEL, [*SMALL, *overrides])


def test_the_command(world, capsys):
    arguments = ["plan", "--compare", MODEL, *SMALL, "budget.macs=50%"]
    assert cli.main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in document["rows"]] == list(METHODS)
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(method in shown for method in METHODS)
    assert "--latency measures them" in shown
    assert cli.main([*arguments, "--latency"]) == 0
    found = capsys.readouterr()
    assert "measured in " in found.err
    assert "latency: expected, on " in found.out
    assert cli.main(["plan", "uvc_digits", "--latency"]) == 2
    assert capsys.readouterr().err == (
        "error: --latency: has no effect without --compare; a budget of latency is measured anyway\n"
    )


def test_the_plan_of_an_experiment_in_milliseconds(world, capsys):
    arguments = ["plan", "uvc_digits", "budget.latency_ms=60%"]
    assert cli.main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    dense = document["dense"]["latency_ms"]
    assert document["target"] == {"latency_ms": pytest.approx(0.6 * dense, abs=1e-4)}
    assert list(document["reachable"]) == ["min_latency_ms", "max_latency_ms", "step_latency_ms"]
    assert document["reachable"]["min_latency_ms"] < document["target"]["latency_ms"] < dense
    assert document["satisfiable"]
    assert (document["place"]["device"], document["place"]["threads"]) == ("cpu", 1)
    assert cli.main(arguments) == 0
    assert f"target     {document['target']['latency_ms']:,} latency_ms (60.0 %)" in capsys.readouterr().out
    assert cli.main(["plan", "scala_digits", "budget.latency_ms=60%"]) == 0
    assert "within budget: width_0.75" in capsys.readouterr().out
