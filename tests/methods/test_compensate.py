"""The method, from an experiment to an export that switches its budget; stopped and continued on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_vitc
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.methods.compensate import Compensate
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.runs.tensor_record import read_tensors

SMALL = (
    "model.depth=3", "model.embed_dim=48", "model.num_heads=3", "model.patch_size=4", "data.num_samples=64",
    "data.batch_size=32", "teacher.epochs=1", "optimizer.warmup_epochs=0", "budget.macs=70%",
)  # fmt: skip
MADE = ("ranking", "compensated", "statistics")


@pytest.fixture(scope="module")
def run(finished_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("compensate"), "compensate_digits", *SMALL)


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    return read_tensors(run / f"{name}.safetensors", json.loads((run / f"{name}.json").read_text()))


def test_a_row_within_the_budget(run: Path) -> None:
    document = json.loads((run / "result.json").read_text())
    (row,) = document["rows"]
    target = document["budget"]["target_macs"]
    assert row["name"] == "compensate"
    assert 0.98 * target < row["macs"] <= target
    assert row["left_percent"] == pytest.approx(100 * row["macs"] / document["dense"]["macs"], abs=0.01)
    assert row["top1"] > document["dense"]["top1"] - 15


def test_it_is_exported_and_so_is_the_network_that_switches(run: Path, vitc: Any) -> None:
    done = vitc("export", str(run), "--out", "small")
    assert done.code == 0, done.error
    done = vitc("export", str(run), "--out", "all", "--variant", "elastic")
    assert done.code == 0, done.error
    small, several = (lightning_vitc.load(vitc.place / name) for name in ("small", "all"))
    several.set_budget("70%")  # type: ignore[operator]
    assert several.spec.blocks == small.spec.blocks
    done = vitc("evaluate", "all", "--budget", "70%,50%", "--json")
    assert done.code == 0, done.error
    seventy, fifty = json.loads(done.out)
    assert (seventy["budget"], fifty["budget"]) == ("70%", "50%")
    assert fifty["macs"] < seventy["macs"] == lightning_vitc.costs.macs(small.spec)
    done = vitc("cost", "all", "--budget", "50%", "--json")
    assert json.loads(done.out)["macs"] == fifty["macs"]
    done = vitc("evaluate", "small", "--budget", "70%")
    assert (done.code, done.error.count("\n")) == (2, 1)
    done = vitc("export", str(run), "--out", "x", "--variant", "elastic", "--width", ".5")
    assert (done.code, "--width: elastic" in done.error) == (2, True)


@pytest.mark.parametrize("gone", MADE)
def test_what_is_lost_is_computed_again_and_is_the_same(run: Path, gone: str, vitc: Any) -> None:
    """As after a kill before it was recorded; what was recorded before is not computed again."""
    import shutil

    shutil.copytree(run.parents[1], vitc.place / "runs")
    copy = vitc.place / "runs" / "compensate_digits" / "default"
    before = {name: tensors(copy, name) for name in MADE}
    times = {name: (copy / f"{name}.safetensors").stat().st_mtime_ns for name in MADE}
    result = json.loads((copy / "result.json").read_text())
    shutil.rmtree(copy / "networks")
    for file in ("result.json", f"{gone}.json", f"{gone}.safetensors"):
        (copy / file).unlink()
    done = vitc("train", "compensate_digits", *SMALL)
    assert done.code == 0, done.error
    assert f"continues at the beginning of {gone}" in done.out
    for name, wanted in before.items():
        assert all(torch.equal(wanted[key], value) for key, value in tensors(copy, name).items())
        assert ((copy / f"{name}.safetensors").stat().st_mtime_ns == times[name]) == (name != gone)
    assert json.loads((copy / "result.json").read_text())["rows"] == result["rows"]


def test_damage_is_said(run: Path, vitc: Any) -> None:
    import shutil

    shutil.copytree(run.parents[1], vitc.place / "runs")
    copy = vitc.place / "runs" / "compensate_digits" / "default"
    (copy / "result.json").unlink()
    (copy / "ranking.safetensors").write_bytes(b"something else")
    done = vitc("train", "compensate_digits", *SMALL)
    assert (done.code, done.error.count("\n")) == (2, 1)
    assert "ranking.safetensors: damaged" in done.error


def test_a_plan_says_what_can_be_reached() -> None:
    experiment = load_experiment("compensate_digits", ["budget.macs=5%"])
    network = create_backbone("deit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=96, depth=8,
                              num_heads=6, num_classes=10)  # fmt: skip
    plan = Compensate.plan(network.spec, experiment)
    assert plan.reachable.least < 0.2 * plan.reachable.most
    assert plan.details["round_to"] == 1
    with pytest.raises(UserError, match=r"^budget\.macs: 0\.1%"):
        Compensate.plan(network.spec, load_experiment("compensate_digits", ["budget.macs=0.1%"])).check(
            load_experiment("compensate_digits", ["budget.macs=0.1%"]).budget
        )


@pytest.mark.parametrize(("overrides", "said"), [
    (["data.few_shot=false"], "data.few_shot: false; compensate holds its few training images"),
    (["data.mixup=0.5"], "data.mixup: 0.5 changes labels"),
    (["method.ridge=0"], "method.ridge: 0"),
    (["method.criterion=size"], "method.criterion"),
    (["method.skip=none", "budget.min_keep.blocks=2"], "budget.min_keep.blocks: has no effect with method.skip=none"),
    (["method.finetune_epochs=2"], "optimizer.warmup_epochs: 4"),
    (["trainer.precision=bf16-true"], "trainer.precision: bf16-true rounds the weights that compensate solves for"),
])  # fmt: skip
def test_bad_input_names_its_key(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        load_experiment("compensate_digits", overrides)
