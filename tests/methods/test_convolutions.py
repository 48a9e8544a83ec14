"""Methods on a small ResNet, whole: trained, decided, evaluated, exported, measured."""

import json

import pytest
import torch

from lightning_vitc.artifacts import artifact

SMALL = ("model.name=resnet18", "model.depths=[2,2]", "model.embed_dim=8", "data.num_samples=64", "data.batch_size=16",
         "teacher.epochs=1", "teacher.warmup_epochs=0", "trainer.max_epochs=2", "optimizer.warmup_epochs=0.5",
         "data.mixup=0.0")  # fmt: skip
RUNS = {
    "uvc": ("budget.macs=80%", "method.finetune_epochs=1", "method.gate_every=1"),
    "usdc": ("budget.macs=80%", "method.finetune_epochs=1", "method.gate_search=fixed:relu_bn"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_a_run_and_what_becomes_of_it(vitc, method):
    done = vitc("train", f"{method}_resnet_digits", *SMALL, *RUNS[method])
    assert done.code == 0, done.error
    folder = f"runs/{method}_resnet_digits/default"
    document = json.loads((vitc.place / folder / "result.json").read_text())
    row = document["rows"][0]
    assert row.get("expected_macs", row["macs"]) <= 0.8 * document["dense"]["macs"]
    assert list((vitc.place / folder).glob("architecture_*.png"))
    assert vitc("export", folder, "--out", "out").code == 0
    network = artifact.load(vitc.place / "out")
    assert network.spec.family == "resnet"
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    gates = [branch.gate for _, _, branch in network.spec.branches()]
    assert {*gates} == {None} if method == "uvc" else gates == ["relu_bn", "relu_bn", None, "relu_bn"]
    timed = vitc("benchmark", "out", "--repeats", "1", "--warmup", "0")
    assert timed.code == 0, timed.error
    assert vitc("report", folder, "--out", "page.html").code == 0


@pytest.mark.slow
def test_dry_run_of_the_imagenet_recipe_of_scala(vitc):
    """With statistics of every width, those that are not trained included."""
    keys = ("data.name=fake", "data.num_samples=8", "data.batch_size=4", "data.num_classes=5", "data.num_workers=0",
            "trainer.max_steps=1", "trainer.accelerator=cpu", "trainer.precision=32-true", "method.granularity=0.25",
            "method.full_warmup_epochs=0", "model.img_size=32", "model.depths=[1,2]")  # fmt: skip
    done = vitc("train", "scala_mobilenetv2", *keys)
    assert done.code == 0, done.error
    rows = json.loads((vitc.place / "runs/scala_mobilenetv2/default/result.json").read_text())["rows"]
    assert [row["width"] for row in rows] == [0.25, 0.40625, 0.46875, 0.5, 0.53125, 0.59375, 0.75, 1.0]
