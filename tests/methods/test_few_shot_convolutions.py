"""DC-ViT and PRACTISE on a network of convolutions: whole blocks leave, batch norms count when they should."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_vitc import load
from lightning_vitc.callbacks.progressive_block_dropping import ProgressiveBlockDropping
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.few_shot.feature_matching import FeatureMatching, original_tokens
from lightning_vitc.files.records import opened
from lightning_vitc.methods.dcvit import DCViT
from lightning_vitc.methods.practise import Practise
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.schema import OptimizerConfig

RESNET = resnet("resnet18", (2, 2, 2), (4, 8, 8), img_size=32, num_classes=5)
RECIPE = OptimizerConfig(name="momentum", lr=0.02, weight_decay=1e-4, schedule="step")


@pytest.fixture
def network() -> Backbone:
    torch.manual_seed(0)
    return from_spec(RESNET).eval()


def fitted(module: FeatureMatching, place, *callbacks) -> FeatureMatching:
    """After two epochs of two batches."""
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=place, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.randn(8, 3, 32, 32), batch_size=4))
    return module


def statistics(network: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_a_trial_of_practise_trains_adaptors_alone_by_running_statistics(network, tmp_path):
    trial, original = adapted(network, 1), statistics(network)
    before = {name: tensor.clone() for name, tensor in trial.state_dict().items()}
    module = fitted(Practise({"a": trial}, RECIPE, original_tokens(network), resting=True), tmp_path)
    assert changed(before, module.networks["a"].state_dict()) == {
        "layer1.0.conv2.1.weight", "layer2.0.conv1.0.weight", "layer2.0.downsample.0.0.weight",
    }  # fmt: skip
    assert not changed(original, statistics(network))


def test_its_final_tuning_normalizes_by_the_batch(network, tmp_path):
    """In training mode, but for the original, which it is compared with."""
    small, original = compact_backbone(network, without_blocks(network, (1,))), statistics(network)
    before = statistics(small)
    module = fitted(Practise({"a": small}, RECIPE, original_tokens(network)), tmp_path)
    assert changed(before, statistics(module.networks["a"])) == set(before)
    assert not changed(original, statistics(network))


def test_dcvit_leaves_statistics_behind_what_it_trains(network, tmp_path):
    """Block 1 is gone: blocks 0 and what was 2 are trained, and those after them rest."""
    small = compact_backbone(network, without_blocks(network, (1,)))
    before = statistics(small)
    module = DCViT({"a": small}, OptimizerConfig(lr=1e-3), original_tokens(network), behind={"a": 1})
    after = statistics(fitted(module, tmp_path, ProgressiveBlockDropping()).networks["a"])
    moved = {name.rpartition(".bn")[0].partition(".downsample")[0] for name in changed(before, after)}
    assert moved == {"", "layer1.0", "layer2.0"}


TINY = ("model.depths=[2,3]", "teacher.epochs=1", "teacher.warmup_epochs=0", "data.num_samples=24",
        "data.batch_size=12", "trainer.max_epochs=2", "optimizer.warmup_epochs=0")  # fmt: skip


@pytest.mark.slow
def test_a_run_of_dcvit(vitc):
    """One block leaves, another stays in part, so that the budget is met to one of its channels."""
    keys = ("method.synthetic.iterations=3", "method.synthetic.warmup=1", "method.synthetic.count=4",
            "budget.drop_blocks=null", "budget.macs=60%", "method.partial=true")  # fmt: skip
    done = vitc("train", "dcvit_resnet_digits", *TINY, *keys)
    assert done.code == 0, done.error
    run = vitc.place / "runs" / "dcvit_resnet_digits" / "default"
    row, budget = (opened((run / "result.json").read_bytes())[key] for key in ("rows", "budget"))
    order = opened((run / "blocks.json").read_bytes())["order"]
    assert sorted(order) == [1, 3, 4]
    assert (row[0]["blocks"], row[0]["narrowed"]) == ([order[0]], order[1])
    exported = vitc("export", str(run), "--out", "small", "--formats", "safetensors")
    assert exported.code == 0, exported.error
    small = load(vitc.place / "small")
    assert costs.macs(small.spec) == row[0]["macs"] <= budget["target_macs"]
    piece = 2 * 9 * (4 if order[1] > 2 else 16) * (128 if order[1] > 2 else 64)
    assert budget["target_macs"] - row[0]["macs"] < piece
    assert small.spec.depth == 4
    saved = torch.load(run / "checkpoints/progressive_2/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[f"backbone.{name}"]) for name, tensor in small.state_dict().items())
    again = vitc("evaluate", str(run))
    assert again.code == 0, again.error


@pytest.mark.slow
def test_a_run_of_practise(vitc):
    """From the original and its trials' adaptors, merged; no label is read and no adaptor stays."""
    model = ("model.name=resnet34", "model.img_size=16", *(f"model.{key}=null" for key in (
        "patch_size", "embed_dim", "depth", "num_heads")))  # fmt: skip
    keys = ("method.adaptors=merged", "method.latency_batch=4", "budget.drop_blocks=1", "optimizer.name=momentum",
            "optimizer.schedule=step", "method.finetune_times=1")  # fmt: skip
    done = vitc("train", "practise_digits", *model, *TINY, *keys)
    assert done.code == 0, done.error
    run = vitc.place / "runs" / "practise_digits" / "default"
    row = opened((run / "result.json").read_bytes())["rows"][0]
    assert row["blocks"] == opened((run / "blocks.json").read_bytes())["order"][:1]
    saved = torch.load(run / "checkpoints/finetune/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * 2
    assert sum("conv2" in name for name in saved["state_dict"]) == 4


DRY = ("data.name=fake", "data.num_samples=8", "data.batch_size=4", "data.num_classes=5", "data.num_workers=0",
       "model.pretrained=false", "model.img_size=32", "trainer.max_epochs=1", "trainer.accelerator=cpu",
       "teacher.train=true", "teacher.epochs=1")  # fmt: skip
QUICK = ("method.synthetic.iterations=2", "method.synthetic.warmup=1", "method.synthetic.count=2")
RECIPES = {
    "dcvit_resnet34": ("model.depths=[2,2]", "method.candidates=[1,3]", *QUICK),
    "practise_mobilenetv2": ("model.depths=[1,2,2]", "method.candidates=[2,4]", "method.latency_batch=2"),
    "dcvit_swin_b": ("model.depths=[1,6]", "model.embed_dim=16", "model.num_heads=[1,2]", "budget.drop_blocks=2",
                     "optimizer.warmup_epochs=0", *QUICK),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("experiment", RECIPES)
def test_dry_run_of_an_imagenet_recipe(vitc, experiment):
    done = vitc("train", experiment, *DRY, *RECIPES[experiment])
    assert done.code == 0, done.error
    run = vitc.place / "runs" / experiment / "default"
    row = opened((run / "result.json").read_bytes())["rows"][0]
    order = opened((run / "blocks.json").read_bytes())["order"]
    chosen = order[: 2 if experiment == "dcvit_resnet34" else 1]
    assert row["blocks"] == ([3, 4] if "swin" in experiment else sorted(chosen))
