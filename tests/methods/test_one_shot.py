"""One-shot pruning: as large as the budget allows, alike in all blocks, by magnitude or at random."""

import json
from typing import Any

import pytest
import torch

from lightning_vitc import costs
from lightning_vitc.budget.prunable import energies, pruned_spec
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.methods.one_shot import OneShot, cut, uniform_size
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.schema import BudgetConfig, MinKeepConfig

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 96, "num_heads": 6, "depth": 4, "num_classes": 10}
NETWORK = create_backbone("deit_tiny_patch16_224", **TINY)
COSTS = UnitCosts.of(NETWORK.spec)


@pytest.mark.parametrize("percent", [20, 30, 50, 70, 90])
def test_within_half_a_percent_and_never_over(percent: int) -> None:
    limit = percent * COSTS.dense // 100
    heads, channels = uniform_size(COSTS, limit, BudgetConfig())
    spec = pruned_spec(NETWORK.spec, cut(NETWORK, "magnitude", heads, channels, seed=0))
    assert limit - 0.005 * COSTS.dense <= costs.macs(spec) <= limit
    assert {(attn.groups, mlp.width) for attn, mlp in spec.blocks} == {(heads, channels)}


def test_heads_and_channels_shrink_alike() -> None:
    heads, channels = uniform_size(COSTS, COSTS.dense // 2, BudgetConfig())
    assert abs(heads / 6 - channels / 384) <= 1 / 12


def test_the_largest_norms_stay() -> None:
    masks, (dims, channels) = cut(NETWORK, "magnitude", 2, 100, seed=0), energies(NETWORK)
    for block in range(4):
        kept = masks.channels[block]
        assert channels[block][kept].min() > channels[block][~kept].max()
        heads = masks.heads[block]
        assert dims[block].sum(-1)[heads].min() > dims[block].sum(-1)[~heads].max()


def test_random_ones_are_a_function_of_the_seed() -> None:
    one, two, other = (cut(NETWORK, "random", 2, 100, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.channels, two.channels)
    assert torch.equal(one.dims, two.dims)
    assert not torch.equal(one.channels, other.channels)


def test_multiples_and_minima() -> None:
    _, channels = uniform_size(COSTS, COSTS.dense // 2, BudgetConfig(round_to=16))
    assert channels % 16 == 0
    least = BudgetConfig(min_keep=MinKeepConfig(channels=380), round_to=100)
    with pytest.raises(UserError, match=r"^budget\.round_to: 100 and budget\.min_keep leave no number of heads and"):
        uniform_size(COSTS, COSTS.dense // 2, least)


def test_a_plan_says_the_multiple_and_what_is_faster() -> None:
    plan = OneShot.plan(NETWORK.spec, load_experiment("magnitude_digits", ["budget.round_to=null"]))
    assert plan.details["round_to"] == 1
    assert plan.details["hint"] == "budget.round_to=8 is faster at the same MACs"


def test_a_run(vitc: Any) -> None:
    settings = (
        "model.depth=3", "model.embed_dim=48", "model.num_heads=3", "model.patch_size=4", "data.num_samples=128",
        "teacher.epochs=1", "method.finetune_epochs=1", "optimizer.warmup_epochs=0", "method.criterion=random",
    )  # fmt: skip
    done = vitc("train", "magnitude_digits", *settings)
    assert done.code == 0, done.error
    run = vitc.place / "runs" / "magnitude_digits" / "default"
    document = json.loads((run / "result.json").read_text())
    (row,) = document["rows"]
    assert (row["name"], row["blocks"], row["skipped_percent"]) == ("random", 3, 0)
    assert row["macs"] <= document["budget"]["target_macs"]
    assert (run / "architecture_random.png").exists()
