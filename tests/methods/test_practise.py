"""PRACTISE: adaptors that start as nothing, scores by measured time, whole blocks dropped, nothing else left."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_vitc import costs
from lightning_vitc.config import load_experiment
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.latency import latencies
from lightning_vitc.files.records import opened
from lightning_vitc.methods import practise
from lightning_vitc.methods.dcvit import DCViT
from lightning_vitc.methods.practise import Practise
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import BudgetConfig

TINY = (
    "model.depth=5", "model.embed_dim=24", "model.num_heads=2", "model.patch_size=4", "teacher.epochs=1",
    "teacher.batch_size=64", "teacher.warmup_epochs=0", "data.num_samples=24", "data.batch_size=10",
    "trainer.max_epochs=4", "optimizer.warmup_epochs=1", "method.trials_at_once=2", "method.latency_batch=8",
)  # fmt: skip


@pytest.fixture
def network() -> Backbone:
    torch.manual_seed(0)
    return create_backbone("deit3_small_patch16_224", img_size=16, patch_size=8, embed_dim=24, num_heads=2, depth=5)


@pytest.fixture(scope="module")
def done(tmp_path_factory, finished_run) -> Path:
    return finished_run(tmp_path_factory.mktemp("practise"), "practise_digits", *TINY)


def test_adaptors_start_as_the_network_without_the_block(network):
    network.eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = compact(network, without_blocks(network, (2,))).forward_features(images)
        torch.testing.assert_close(adapted(network, 2).eval().forward_features(images), expected, rtol=0, atol=1e-5)


def test_only_adaptors_are_trained_two_earlier_and_two_later(network):
    trained = {name for name, one in adapted(network, 2).named_parameters() if one.requires_grad}
    assert trained == {
        "blocks.0.mlp.fc2.1.weight", "blocks.1.mlp.fc2.1.weight", "blocks.2.attn.qkv.0.weight",
        "blocks.3.attn.qkv.0.weight",
    }  # fmt: skip


def test_scores_by_hand(network, monkeypatch):
    """40 % saved at an error of 0.8; nothing saved at 0.5, which counts as a thousandth of a percent."""
    monkeypatch.setattr(practise, "latencies", lambda *_: {"dense": 100.0, 1: 60.0, 2: 100.0})
    monkeypatch.setattr(practise, "score", lambda original, network, images, kind: {"one": 0.8, "two": 0.5}[network])
    run = SimpleNamespace(
        processes=SimpleNamespace(device="cpu"), arguments=SimpleNamespace(latency_batch=2),
        data=SimpleNamespace(images_of=lambda _: torch.zeros(1, 3, 16, 16)),
    )  # fmt: skip
    ranked = Practise._ranking(run, network, {2: "two", 1: "one"})
    assert ranked["order"] == [1, 2]
    assert ranked["scores"] == {"2": pytest.approx(500), "1": pytest.approx(0.02)}
    assert ranked["latency_reductions"] == {"2": 0, "1": pytest.approx(40)}


def test_a_budget_within_a_block_drops_it(network):
    spec, dense = network.spec, costs.macs(network.spec)
    block = (dense - costs.macs(spec.with_stage())) // 5
    for removed, number in ((1, 1), (block, 1), (block + 1, 2), (3 * block // 2, 2)):
        plan = Elimination.of(BudgetConfig(macs=dense - removed), spec, range(3))
        assert len(plan.chosen([2, 0, 1])) == number


def test_the_best_leave_at_once_and_are_tuned_so_many_times(network, monkeypatch):
    for name in ("must_have_room", "adopt_trials", "tried", "original_tokens"):
        monkeypatch.setattr(practise, name, lambda *_: None)
    seen = {}
    run = SimpleNamespace(
        arguments=SimpleNamespace(candidates=None, unit="block", trials_at_once=2, trials_of=None, finetune_times=3),
        dense_spec=network.spec, start=lambda **_: network, optimizer=None, record=lambda *_: {"order": [3, 1, 2]},
        latency=SimpleNamespace(table=lambda: None),
        experiment=SimpleNamespace(seed=0, trainer=SimpleNamespace(max_epochs=4), budget=BudgetConfig(drop_blocks=2)),
        fit=lambda stage, build, epochs, **_: seen.update(epochs=epochs) or SimpleNamespace(backbone=None),
        add_row=lambda name, network, kept, left, **columns: seen.update(left=left, **columns),
    )  # fmt: skip
    Practise.pipeline(run)
    assert seen == {"epochs": 12, "left": (0, 2, 4), "blocks": [1, 3]}


def test_scores_are_errors_over_percent_saved(done):
    blocks = opened((done / "blocks.json").read_bytes())
    for block, value in blocks["scores"].items():
        expected = blocks["training_losses"][block] / max(blocks["latency_reductions"][block], 1e-3)
        assert value == pytest.approx(expected)
    scores = {int(block): value for block, value in blocks["scores"].items()}
    assert blocks["order"] == sorted(scores, key=scores.__getitem__)


def test_the_best_leave_and_no_adaptor_stays(done):
    order = opened((done / "blocks.json").read_bytes())["order"]
    row = opened((done / "result.json").read_bytes())["rows"][0]
    assert (row["name"], row["blocks"]) == ("practise", sorted(order[:2]))
    saved = torch.load(done / "checkpoints/finetune/last.ckpt", weights_only=True)
    names = [name for name in saved["state_dict"] if "blocks" in name]
    assert {name.split(".")[2] for name in names} == {"0", "1", "2"}
    assert not any(".fc2.1." in name or ".qkv.0." in name for name in names)


def test_it_starts_from_the_original_and_leaves_the_head(done):
    """As many steps as DC-ViT's network goes through: three fine-tunings of 4 epochs of 3 batches."""
    finetuned = torch.load(done / "checkpoints/finetune/last.ckpt", weights_only=True)
    dense = torch.load(done / "checkpoints/dense/best.ckpt", weights_only=True)["state_dict"]
    assert finetuned["global_step"] == 3 * 4 * 3
    assert torch.equal(finetuned["state_dict"]["backbone.head.weight"], dense["backbone.head.weight"])
    assert not torch.equal(finetuned["state_dict"]["backbone.cls_token"], dense["backbone.cls_token"])


@pytest.mark.parametrize(("budget", "times"), [
    ("budget.drop_blocks=2", 3), ("budget.macs=75%", 2), ("budget.macs=66%", 2), ("budget.macs=60%", 3),
    ("budget.convention=full", 2),
])  # fmt: skip
def test_as_many_finetunings_as_dcvit_compresses_blocks(tmp_path, budget, times):
    keys = [*TINY, f"output_dir={tmp_path}", budget]
    run = Pipeline(load_experiment("practise_digits", keys), RunDirectory(tmp_path / "run"))
    assert Practise._times(run, run.dense_spec, 2) == times
    dcvit = load_experiment("dcvit_digits", [*(key for key in keys if "latency" not in key)])
    assert DCViT.plan(run.dense_spec, dcvit).details["blocks"] == times


@pytest.mark.slow
def test_trials_of_another_run(done, vitc):
    keys = [key for key in TINY if "teacher" not in key]
    other = (f"teacher.run={done}", f"method.trials_of={done}", "budget.drop_blocks=1", "method.trials_at_once=3")
    finished = vitc("train", "practise_digits", *keys, *other)
    assert finished.code == 0, finished.error
    run = vitc.place / "runs" / "practise_digits" / "default"
    one, two = (path / "checkpoints" / "trials_2" / "last.ckpt" for path in (run, done))
    assert one.read_bytes() == two.read_bytes()
    assert opened((run / "trials.json").read_bytes()) == {"stages": {"trials_0": [1, 2], "trials_2": [3]}}
    refused = vitc("train", "practise_digits", *keys, *other, "optimizer.lr=0.5", "run_name=other")
    message = f"method.trials_of: {done} was run with optimizer.lr=0.002, this run has 0.5; trials depend on it"
    assert (refused.code, refused.error) == (2, f"error: {message}\n")


def test_latencies_are_taken_in_turns():
    order = []

    class Noted(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            order.append(self.name)
            return images

    found = latencies({"a": Noted("a"), "b": Noted("b")}, torch.zeros(1), repeats=3)
    assert order == ["a", "b"] * 4
    assert all(value > 0 for value in found.values())


@pytest.mark.parametrize(("override", "message"), [
    ("budget.drop_blocks=4", r"budget.macs: .* needs 4 blocks dropped, and 3 are candidates"),
    ("budget.macs=100%", r"budget.macs: .* is the dense network; nothing is to be dropped"),
    ("trainer.precision=bf16-true", "trainer.precision: bf16-true rounds the weights of practise's candidates"),
    ("trainer.precision=64", "trainer.precision: 64 is not that of the network which practise is compared with"),
    ("data.mixup=0.5", "data.mixup: 0.5 changes labels, and practise reads none; set it to 0"),
    ("data.few_shot=false", "data.few_shot: false; practise holds its few training images in memory"),
    ("data.num_samples=5000", "data.num_samples: digits has 1,259 training images; not 5,000"),
])  # fmt: skip
def test_refused_in_one_line(vitc, override, message):
    refused = vitc("train", "practise_digits", *TINY, override)
    assert (refused.code, refused.out) == (2, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", refused.error), refused.error
    assert not (vitc.place / "runs").exists()
