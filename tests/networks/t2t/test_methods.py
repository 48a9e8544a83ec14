"""Every method on tiny T2T-ViTs, whole: trained, evaluated, exported, started from."""

import json

import pytest
import torch

from lightning_vitc.artifacts import artifact
from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.exporting.deployed import Pt2Network
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import drop_attention, train_around, without_blocks
from lightning_vitc.pipeline.initial_network import starting_network
from lightning_vitc.schema import ModelConfig

SMALL = (
    "model.img_size=32", "model.patch_size=null", "model.embed_dim=48", "model.num_heads=4", "model.depth=4",
    "model.mlp_ratio=2", "trainer.log_every_n_steps=4", "data.num_samples=64", "data.batch_size=16", "data.mixup=0.0",
    "teacher.epochs=1", "teacher.warmup_epochs=0", "optimizer.warmup_epochs=0.5",
)  # fmt: skip
FEW = ("trainer.max_epochs=2", "budget.drop_blocks=1", "method.trials_at_once=2")
SEARCH = ("trainer.max_epochs=3", "method.finetune_epochs=1", "budget.macs=95%")
RUNS = {
    "uvc": ("uvc_t2t_digits", "t2t_vit_14", (*SEARCH, "method.gate_every=2")),
    "usdc, softmax": ("usdc_digits", "t2t_vit_t_14", SEARCH),
    "dcvit": ("dcvit_digits", "t2t_vit_7", (*FEW, "method.synthetic.iterations=3", "method.synthetic.warmup=1",
                                            "method.synthetic.count=4")),
    "scala": ("scala_digits", "t2t_vit_14", ("trainer.max_epochs=2", "method.granularity=0.25")),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_a_run_and_its_export(vitc, run):
    experiment, model, keys = RUNS[run]
    done = vitc("train", experiment, f"model.name={model}", *SMALL, *keys)
    assert done.code == 0, done.error
    folder = f"runs/{experiment}/default"
    assert json.loads((vitc.place / folder / "result.json").read_text())["rows"]
    if run not in ("uvc", "scala"):  # the rest by operators, tests/exporting
        return
    exported = vitc("export", folder, "--out", "out", "--formats", "safetensors,pt2")
    assert exported.code == 0, exported.error
    network, written = artifact.load(vitc.place / "out"), Pt2Network(vitc.place / "out" / FILES["pt2"])
    for batch in (1, 3):
        images = torch.randn(batch, 1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(written(images), network(images), rtol=0, atol=1e-5)
    if run == "uvc":
        assert list((vitc.place / folder).glob("architecture_*.png"))
        page = vitc("report", folder, "--out", "page")
        assert page.code == 0, page.error
        started = starting_network(ModelConfig(name=str(vitc.place / "out"), img_size=48), 10)
        assert started.spec.img_size == (48, 48)
        assert started(torch.randn(2, 1, 48, 48)).shape == (2, 10)
        assert not started.pos_embed.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uvc", "usdc"])
def test_dry_run_of_the_imagenet_recipe(vitc, method):
    keys = (
        "data.name=fake", "data.num_samples=16", "data.batch_size=4", "data.num_classes=5", "data.num_workers=0",
        "trainer.max_steps=2", "trainer.accelerator=cpu", "method.finetune_epochs=1", "teacher.train=true",
        "teacher.epochs=1", "model.pretrained=false", "model.img_size=32", "model.depth=2", "model.embed_dim=64",
        "model.num_heads=2", "budget.macs=95%",
    )  # fmt: skip
    done = vitc("train", f"{method}_t2t_vit_14", *keys)
    assert done.code == 0, done.error
    assert method in done.out


@pytest.mark.parametrize("init", ["reuse", "reinit", "least_squares"])
def test_a_block_loses_its_attention(tiny, init):
    images = torch.randn(4, 3, 32, 32)
    small = drop_attention(tiny, 1, 8, seed=0, images=images, init=init).eval()
    attn, mlp = small.spec.blocks[1]
    assert (attn, mlp.width) == (None, 8)
    with torch.no_grad():
        torch.testing.assert_close(compact(small, None)(images), small(images), rtol=0, atol=1e-6)
        assert (small(images) - tiny(images)).abs().max() > 1e-3
    train_around(small, behind=2)
    frozen = {name for name, own in small.named_parameters() if not own.requires_grad}
    assert {name for name in frozen if not name.startswith("head")} == tiny.constants


def test_identity_adaptors_change_nothing(tiny):
    images = torch.randn(2, 3, 32, 32)
    small, plain = adapted(tiny, 1).eval(), compact(tiny, without_blocks(tiny, (1,)))
    with torch.no_grad():
        torch.testing.assert_close(small(images), plain(images), rtol=0, atol=1e-5)
    trained = [parameter.shape for parameter in small.parameters() if parameter.requires_grad]
    assert trained == [(32, 32)] * 2
