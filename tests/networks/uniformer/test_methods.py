"""Every method on tiny UniFormers: trained, evaluated, exported, started from."""

import json
from fractions import Fraction

import pytest
import torch

from lightning_vitc.artifacts import artifact
from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.exporting.deployed import OnnxNetwork
from lightning_vitc.exporting.write_formats import write_formats
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.few_shot.block_plan import BlockCosts, block_target, plan_blocks
from lightning_vitc.networks import costs
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import drop_attention, without_blocks
from lightning_vitc.networks.families.uniformer.names import NAMES
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.pipeline.initial_network import starting_network
from lightning_vitc.schema import BudgetConfig, ModelConfig

SMALL = (
    "model.name=uniformer_small_plus", "model.img_size=32", "model.patch_size=null", "model.embed_dim=[8,16,16,24]",
    "model.num_heads=[2,3]", "model.depth=null", "model.depths=[1,1,3,1]", "trainer.log_every_n_steps=4",
    "data.num_samples=32", "data.batch_size=16", "data.mixup=0.0", "teacher.epochs=1", "teacher.warmup_epochs=0",
    "optimizer.warmup_epochs=0.5",
)  # fmt: skip
FEW = ("trainer.max_epochs=2", "budget.drop_blocks=1", "method.trials_at_once=2")
SEARCH = ("trainer.max_epochs=2", "method.finetune_epochs=1", "budget.macs=90%", "model.depths=[1,1,1,1]")
RUNS = {
    "uvc": (*SEARCH, "method.gate_every=2"),
    "usdc": (*SEARCH, "method.gate_search=fixed:linear"),
    "dcvit": (
        *FEW, "model.depths=[1,1,4,1]", "method.synthetic.iterations=3", "method.synthetic.warmup=1",
        "method.synthetic.count=4",
    ),
    "practise": (*FEW, "method.latency_batch=4", "method.adaptors=merged"),
    "scala": ("trainer.max_epochs=2", "method.granularity=0.25"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_a_run_and_its_export(vitc, method):
    experiment = f"{method}_digits"
    done = vitc("train", experiment, *SMALL, *RUNS[method])
    assert done.code == 0, done.error
    folder = f"runs/{experiment}/default"
    assert json.loads((vitc.place / folder / "result.json").read_text())["rows"]
    if method != "uvc":
        return
    exported = vitc("export", folder, "--out", "out")
    assert exported.code == 0, exported.error  # other formats: below, and in tests/exporting, with gates too
    assert artifact.load(vitc.place / "out").spec.family == "uniformer"
    assert list((vitc.place / folder).glob("architecture_*.png"))
    started = starting_network(ModelConfig(name=str(vitc.place / "out"), img_size=64), 10)
    assert started.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["scala_uniformer_s", "scala_uniformer_xs"])
def test_dry_run_of_an_imagenet_recipe(vitc, experiment):
    keys = (
        "data.name=fake", "data.num_samples=8", "data.batch_size=4", "data.num_classes=5", "data.num_workers=0",
        "trainer.max_steps=1", "trainer.accelerator=cpu", "method.full_warmup_epochs=0", "method.granularity=0.25",
        "model.img_size=64", "model.depths=[1,1,2,1]", "model.embed_dim=[16,32,64,128]", "model.num_heads=[2,4]",
        "trainer.precision=32-true",
    )  # fmt: skip
    done = vitc("train", experiment, *keys)
    assert done.code == 0, done.error
    assert "width_0.25" in done.out


@pytest.mark.slow
def test_onnx_takes_any_batch(tmp_path, made):
    tiny = made("uniformer_small_plus", depths=[1, 1, 1, 1])
    small = compact(tiny, slice_width(tiny.spec, Fraction(1, 2)))
    write_formats(small, tmp_path, ["onnx"], {})
    network = OnnxNetwork(tmp_path / FILES["onnx"])
    for count in (1, 3):
        x = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(network(x), small(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("block", [1, 4], ids=["mixer", "attention"])
@pytest.mark.parametrize("init", ["reuse", "reinit", "least_squares"])
def test_a_block_loses_its_mixer_or_its_attention(tiny, init, block):
    images = torch.randn(4, 3, 32, 32)
    small = drop_attention(tiny, block, 8, seed=0, images=images, init=init, units="activation").eval()
    first, mlp = small.spec.blocks[block]
    assert (first, mlp.width) == (None, 8)
    with torch.no_grad():
        torch.testing.assert_close(compact(small, None)(images), small(images), rtol=0, atol=1e-6)
        assert (small(images) - tiny(images)).abs().max() > 1e-3


def test_least_squares_makes_up_for_a_mixer(tiny):
    """The only error that is left is what 8 of 32 units cannot do: less than with the weights that they had."""
    images = torch.randn(16, 3, 32, 32)
    wanted = tiny.entering(1, images)
    errors = {
        init: (drop_attention(tiny, 0, 8, seed=0, images=images, init=init).eval().entering(1, images) - wanted)
        .square().mean().item()
        for init in ("reuse", "least_squares")
    }  # fmt: skip
    assert errors["least_squares"] < 0.9 * errors["reuse"]


def test_identity_adaptors_change_nothing(tiny):
    images = torch.randn(2, 3, 32, 32)
    small, plain = adapted(tiny, 3).eval(), compact(tiny, without_blocks(tiny, (3,)))
    with torch.no_grad():
        torch.testing.assert_close(small(images), plain(images), rtol=0, atol=1e-5)


# Costs by piece


SPEC = NAMES["uniformer_small_plus"]()


def test_unit_costs():
    full = UnitCosts.of(SPEC)
    assert [part.dim for part in full.stacks] == [479_808, 220_304, 163_856, 52_577]
    assert [part.channel for part in full.stacks] == [401_408, 200_704, 125_440, 50_176]
    assert [part.head for part in full.stacks] == [0, 0, 5_243_392, 1_682_464]
    positions = 3 * 1_806_336 + 5 * 903_168 + 9 * 564_480 + 3 * 225_792
    assert full.fixed == 68_640_768 + 202_309_632 + positions + 512_000  # stem, downsampling, positions, classifier
    of_params = UnitCosts.of(SPEC, "params")
    assert [part.dim for part in of_params.stacks] == [155, 283, 641, 1025]
    assert [part.channel for part in of_params.stacks] == [129, 257, 641, 1025]


def test_the_convention_of_dcvit():
    """UniFormer-S without a stem has a norm behind every patch embedding, and two in each of 11 blocks with tokens."""
    small = NAMES["uniformer_small"]()
    normed = 3136 * 64 + 784 * 128 + 196 * 320 * 17 + 49 * 512 * 7
    products = 2 * (8 * 196**2 * 320 + 3 * 49**2 * 512)
    assert costs.macs(small, "paper") == costs.macs(small) - products + 4 * normed
    assert costs.macs(small, "paper", "scala") == costs.macs(small)


def test_plans_of_whole_blocks():
    """At the MACs without so many blocks of the third stage; a block's position is never removed."""
    candidates = range(9, 16)
    target = block_target(BudgetConfig(drop_blocks=2), SPEC, candidates)
    parts = BlockCosts.of(SPEC, target, candidates)
    assert (parts.attn, parts.unit, parts.block) == (104_867_840, 125_440, 265_995_520)
    plan = plan_blocks(SPEC, target, candidates)
    assert costs.macs(plan.apply(SPEC, candidates)) <= costs.macs(SPEC) - 2 * 265_995_520
    assert plan.blocks == 3
