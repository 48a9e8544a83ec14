import math
import re

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.feature_matching import FeatureMatching
from lightning_vitc.methods.dense import Dense
from lightning_vitc.networks.backbone import from_timm
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.optimizer import build_optimizer, lr_factor

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
RECIPE = OptimizerConfig(lr=2e-3, warmup_lr=2e-5, min_lr=1e-5)


def backbone(name: str = "deit_tiny_distilled_patch16_224", **arguments):
    return from_timm(timm.create_model(name, **SMALL | arguments))


# The schedule


def test_the_corners_of_the_schedule():
    factor = {step: lr_factor(step, RECIPE, 100, 20) for step in range(131)}
    assert factor[0] * RECIPE.lr == pytest.approx(2e-5)
    assert factor[10] * RECIPE.lr == pytest.approx((2e-5 + 2e-3) / 2)
    assert factor[20] == 1
    assert factor[60] * RECIPE.lr == pytest.approx((2e-3 + 1e-5) / 2)
    assert factor[100] * RECIPE.lr == pytest.approx(1e-5)
    assert factor[130] == factor[100]
    assert max(factor.values()) == 1
    for step in range(20):
        assert factor[step + 1] - factor[step] == pytest.approx((1 - 0.01) / 20)
    for step in range(20, 101):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 20) / 80))
        assert factor[step] == pytest.approx(0.005 + 0.995 * cosine)


def test_without_warm_up_it_starts_at_the_top():
    assert lr_factor(0, RECIPE, 100, 0) == 1
    assert lr_factor(100, RECIPE, 100, 0) == pytest.approx(0.005)


def test_fewer_steps_than_warm_up():
    factor = [lr_factor(step, RECIPE, 5, 10) for step in range(14)]
    assert factor[:10] == sorted(factor[:10])
    assert factor[4] == pytest.approx(0.01 + 0.99 * 0.4)
    assert factor[10] == 1
    assert factor[13] == pytest.approx(0.005)
    assert all(0 < value <= 1 for value in factor)


def test_only_warm_up_and_a_single_step():
    assert [lr_factor(step, RECIPE, 4, 4) for step in (0, 4, 5)] == [pytest.approx(0.01), 1, pytest.approx(0.005)]
    assert lr_factor(0, RECIPE, 1, 0) == 1


def test_a_step_falls_once():
    """PRACTISE's for networks of convolutions: to a tenth after 40 percent of what follows the warm-up."""
    recipe = OptimizerConfig(lr=0.02, schedule="step")
    assert [lr_factor(step, recipe, 2000, 0) for step in (0, 799, 800, 1999)] == [1, 1, 0.1, 0.1]
    assert [lr_factor(step, recipe, 110, 10) for step in (9, 10, 49, 50)][1:] == [1, 1, 0.1]


def test_momentum_is_plain_sgd():
    """Not Nesterov's, which timm means by sgd."""
    optimizer, _ = build_optimizer(torch.nn.Linear(2, 2), OptimizerConfig(name="momentum", lr=0.02), 10, 0)
    group = optimizer.param_groups[0]
    assert (type(optimizer).__name__, group["momentum"], group["nesterov"]) == ("SGD", 0.9, False)


def test_a_minimum_above_the_rate_keeps_the_rate():
    high = OptimizerConfig(lr=1e-6, min_lr=1e-5, warmup_lr=0.0)
    assert [lr_factor(step, high, 10, 2) for step in (0, 1, 2, 6, 10)] == [0, 0.5, 1, 1, 1]


def test_the_scheduler_steps_through_the_factors():
    optimizer, scheduler = build_optimizer(backbone(), RECIPE, total_steps=8, warmup_steps=3)
    seen = []
    for _ in range(9):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [2e-3 * lr_factor(step, RECIPE, 8, 3) for step in range(9)]
    assert all(lrs == [pytest.approx(lr)] * 2 for lrs, lr in zip(seen, expected, strict=True))


# What is decayed

KINDS = {
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer scale": ("deit3_small_patch16_224", {}),
    "registers, gap": ("vit_medium_patch16_reg4_gap_256", {}),
    "registers, class token": ("vit_small_patch14_reg4_dinov2", {}),
    "qk norm, clip": ("vit_base_patch16_clip_quickgelu_224", {"qk_norm": True}),
}
DECAYED = r"(.*\.)?(patch_embed\.proj|qkv|attn\.proj|fc1|fc2|head|head_dist)\.weight"
NOT_DECAYED = r".*\.bias|.*(norm|norm1|norm2|norm_pre|q_norm|k_norm)\.weight|.*(cls|dist|reg)_token|.*pos_embed|.*gamma"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["backbone", "module"])
def test_biases_norms_tokens_positions_and_gains_are_not_decayed(kind, wrapped):
    name, arguments = KINDS[kind]
    model = backbone(name, **arguments)
    module = Dense(model, RECIPE) if wrapped else model
    optimizer, _ = build_optimizer(module, RECIPE, 10, 0)
    names = {parameter: key for key, parameter in module.named_parameters()}
    groups = {
        group["weight_decay"]: {names[parameter] for parameter in group["params"]} for group in optimizer.param_groups
    }
    assert set(groups) == {0.0, 0.05}
    assert groups[0.05] == {key for key in names.values() if re.fullmatch(DECAYED, key)}
    assert groups[0.0] == {key for key in names.values() if re.fullmatch(NOT_DECAYED, key)}
    assert groups[0.0] | groups[0.05] == set(names.values())
    ones = {key for parameter, key in names.items() if parameter.dim() <= 1}
    tokens = {key for key in names.values() if key.endswith(("token", "pos_embed"))}
    assert groups[0.0] == ones | tokens


def test_the_teacher_and_frozen_weights_have_no_optimizer():
    model = backbone()
    model.patch_embed.requires_grad_(False)
    optimizer, _ = build_optimizer(model, RECIPE, 10, 0)
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {parameter for parameter in model.parameters() if parameter.requires_grad}


# Which optimizer


def test_the_recipe_reaches_the_optimizer():
    recipe = OptimizerConfig(lr=3e-4, weight_decay=0.2, betas=[0.8, 0.95], eps=1e-7)
    optimizer, _ = build_optimizer(backbone(), recipe, 10, 0)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (tuple(group["betas"]), group["eps"], group["initial_lr"]) == ((0.8, 0.95), 1e-7, 3e-4)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0, 0.2]


@pytest.mark.parametrize("name", ["sgd", "lamb", "nadamw", "lion", "adafactor", "rmsprop"])
def test_other_optimizers_of_timm_take_a_step(name):
    model = backbone()
    optimizer, scheduler = build_optimizer(model, OptimizerConfig(name=name, lr=1e-3), 10, 2)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_an_unknown_optimizer():
    with pytest.raises(UserError) as caught:
        build_optimizer(backbone(), OptimizerConfig(name="adamm", lr=1e-3), 10, 0)
    assert str(caught.value).startswith("optimizer.name: 'adamm' cannot be built by timm.optim (")
    assert "\n" not in str(caught.value)


# Parameters with rates of their own


def test_own_rates_are_those_of_groups_without_decay():
    """Without a gradient AdamW leaves 1 - lr decay = 1 - .5 x .2 = .9 of a weight that is decayed, else all of it."""
    model, recipe = backbone(), OptimizerConfig(lr=0.5, weight_decay=0.2)
    own = {"head.weight": 0.25, "blocks.1.mlp.fc1.weight": 0.25, "blocks.0.attn.qkv.weight": 0.125, "norm.bias": 0.125}
    optimizer, scheduler = build_optimizer(model, recipe, 10, 0, own)
    named = dict(model.named_parameters())
    groups = [(group["lr"], group["weight_decay"], set(map(id, group["params"]))) for group in optimizer.param_groups]
    for name, lr in own.items():
        assert [(rate, decay) for rate, decay, members in groups if id(named[name]) in members] == [(lr, 0.0)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)

    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    for parameter in named.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in named.items():
        decayed = name not in own and re.fullmatch(DECAYED, name)
        torch.testing.assert_close(parameter.detach(), before[name] * (0.9 if decayed else 1.0))
    scheduler.step()
    assert {group["lr"] / group["initial_lr"] for group in optimizer.param_groups} == {lr_factor(1, recipe, 10, 0)}


# Rates by depth


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_layer_decay_is_timms(name):
    model, recipe = backbone(name, depth=3), OptimizerConfig(lr=0.5, weight_decay=0.2, layer_decay=0.75)
    theirs = param_groups_layer_decay(timm.create_model(name, **SMALL | {"depth": 3}), 0.2, model.no_weight_decay(),
                                      layer_decay=0.75)  # fmt: skip
    optimizer, scheduler = build_optimizer(Dense(model, recipe), recipe, 10, 0)
    ours = [(group["lr"], group["weight_decay"], [*map(tuple, map(torch.Tensor.size, group["params"]))])
            for group in optimizer.param_groups]  # fmt: skip
    assert ours == [(0.5 * group["lr_scale"], group["weight_decay"], [tuple(one.size()) for one in group["params"]])
                    for group in theirs]  # fmt: skip
    scheduler.step()
    fallen = [group["lr"] / group["initial_lr"] for group in optimizer.param_groups]
    assert fallen == pytest.approx([lr_factor(1, recipe, 10, 0)] * len(fallen))


def test_layer_decay_by_hand():
    """Of two blocks: the stem at d^3, the blocks at d^2 and d, the last norm as the last block, the classifier at 1."""
    module = Dense(backbone("vit_tiny_patch16_224"), RECIPE)
    recipe = OptimizerConfig(lr=1.0, layer_decay=0.5)
    optimizer, _ = build_optimizer(module, recipe, 10, 0, {"backbone.head.bias": 3.0})
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    found = {name.removeprefix("backbone."): rates[id(one)] for name, one in module.named_parameters()}
    wanted = {"pos_embed": 0.125, "patch_embed.proj.bias": 0.125, "blocks.0.norm1.weight": 0.25,
              "blocks.1.mlp.fc2.weight": 0.5, "norm.bias": 0.5, "head.weight": 1.0, "head.bias": 3.0}  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted


def test_layer_decay_of_networks_side_by_side():
    module = FeatureMatching({"one": backbone("vit_tiny_patch16_224"), "two": backbone("vit_tiny_patch16_224")}, RECIPE,
                             None)  # fmt: skip
    layer = module.group_matcher()
    assert [layer(f"{start}.blocks.1.norm1.bias") for start in ("backbone", "others.two")] == [2, 2]
    assert layer("duals.weight") == 3


def test_without_layer_decay_there_are_two_groups():
    optimizer, _ = build_optimizer(backbone(), OptimizerConfig(lr=1.0), 10, 0)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 1.0]
