"""Recipes: the paper's or the released code's, and what the papers' experiments have in common."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm

from lightning_vitc.config import dump, experiments, load_experiment
from lightning_vitc.config.sources import experiment_folders
from lightning_vitc.errors import UserError
from lightning_vitc.schema import OptimizerConfig, PostTrainingArguments

Write = Callable[[str, str], Path]

OFFERED = {
    "dcvit_deit_b", "dcvit_dinov3_s", "dcvit_mobilenetv2", "dcvit_resnet34", "dcvit_swin_b", "dcvit_vit_b",
    "practise_mobilenetv2", "practise_resnet34", "practise_vit_b", "scala_deit_b", "scala_deit_s",
    "uvc_deit_b", "uvc_deit_s", "uvc_deit_ti", "uvc_deit_ti_distilled", "uvc_dinov3_b", "uvc_swin_t",
    "uvc_t2t_vit_14",
}  # fmt: skip
EXPERIMENTS = {name: load_experiment(name, check_files=False) for name in experiments()}


# How a recipe is chosen


@pytest.fixture
def two(write: Write) -> None:
    write("base/theirs.yaml", "base: [ok]\nrecipe: paper\nseed: 1\noptimizer: {lr: 0.1, eps: 1e-5}")
    write("base/theirs_released.yaml", "seed: 2\noptimizer: {lr: 0.2}")
    write("mine.yaml", "base: [theirs, ok]\noptimizer: {betas: [0.1, 0.2]}")


@pytest.mark.parametrize(
    ("overrides", "recipe", "seed", "lr"),
    [
        ([], "paper", 1, 0.1),
        (["recipe=paper"], "paper", 1, 0.1),
        (["recipe=released"], "released", 2, 0.2),
        (["recipe=released", "optimizer.lr=0.3"], "released", 2, 0.3),
        (["recipe=released", "recipe=paper"], "paper", 1, 0.1),
    ],
)
def test_released_settings_lie_above_those_of_their_base(
    two: None, overrides: list[str], recipe: str, seed: int, lr: float
) -> None:
    experiment = load_experiment("mine", overrides)
    assert (experiment.recipe, experiment.seed, experiment.optimizer.lr) == (recipe, seed, lr)
    assert (experiment.optimizer.eps, experiment.optimizer.betas) == (1e-5, [0.1, 0.2])


def test_an_experiment_and_a_file_of_ones_own_have_recipes_too(two: None, write: Write) -> None:
    write("base/mine_released.yaml", "run_name: code")
    assert load_experiment("mine", ["recipe=released"]).run_name == "code"
    write("yours.yaml", "base: [mine]\nrecipe: released\noptimizer: {lr: 0.4}")
    yours = load_experiment("yours")
    assert (yours.recipe, yours.seed, yours.run_name, yours.optimizer.lr) == ("released", 2, "code", 0.4)
    assert load_experiment("yours", ["recipe=paper"]).seed == 1


def test_what_a_run_has_stored_is_not_changed_again(two: None, place: Path) -> None:
    released = load_experiment("mine", ["recipe=released", "optimizer.lr=0.5"])
    (place / "config.yaml").write_text(dump(released))
    assert load_experiment("config.yaml") == released
    assert load_experiment("config.yaml", ["recipe=released"]) == released
    with pytest.raises(UserError, match=r"^recipe: paper is not offered by config, whose settings are its own; leave"):
        load_experiment("config.yaml", ["recipe=paper"])


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_a_recipe_that_is_not_offered(place: Path, write: Write, recipe: str) -> None:
    message = f"^recipe: {recipe} is not offered by (ok|mine), whose settings are its own; leave it out$"
    with pytest.raises(UserError, match=message):
        load_experiment("ok", [f"recipe={recipe}"])
    write("mine.yaml", f"base: [ok]\nrecipe: {recipe}")
    with pytest.raises(UserError, match=message):
        load_experiment("mine")


@pytest.mark.parametrize(
    ("value", "rest"),
    [("relased", "; did you mean 'released'?"), ("../base/low", ""), ("[released]", "; did you mean 'released'?")],
)
def test_a_recipe_that_does_not_exist(two: None, value: str, rest: str) -> None:
    with pytest.raises(UserError, match=r"^recipe: \S+ is not one of paper, released") as caught:
        load_experiment("mine", [f"recipe={value}"])
    assert str(caught.value).endswith(f"is not one of paper, released{rest}")


# What is shipped


def test_who_offers_the_released_settings() -> None:
    assert {name for name, experiment in EXPERIMENTS.items() if experiment.recipe == "paper"} == OFFERED
    for name in OFFERED:
        assert load_experiment(name, ["recipe=released"], check_files=False).recipe == "released"
    for name in EXPERIMENTS.keys() - OFFERED:
        with pytest.raises(UserError, match=r"^recipe: released is not offered by"):
            load_experiment(name, ["recipe=released"], check_files=False)
    released = {file.stem for folder in experiment_folders() for file in (folder / "base").glob("*_released.yaml")}
    assert released == {"few_shot_imagenet_released", "scala_deit_b_released", "scala_deit_s_released",
                        "uvc_deit_released"}  # fmt: skip


def test_uvc_as_released() -> None:
    """500 steps of warm-up are those of 0.1 epochs of 1,281,167 images in batches of 256, dropped to whole ones."""
    paper, released = (load_experiment("uvc_deit_s", [f"recipe={name}"], check_files=False)
                       for name in ("paper", "released"))  # fmt: skip
    assert int(released.optimizer.warmup_epochs * (1_281_167 // 256)) == 500
    assert (paper.optimizer.warmup_epochs, paper.data.mixup_prob, paper.method.kd_reduction) == (0, 1.0, "batchmean")
    assert (released.data.mixup_prob, released.data.mixup, released.data.cutmix) == (0.8, 0.8, 1.0)
    assert (released.method.kd_reduction, released.method.distillation) == ("numel", 0.1)
    assert (released.optimizer.lr, released.optimizer.min_lr) == (1e-4, 0.0)
    post = released.method.finetuning(released.optimizer)
    assert (post.lr, post.warmup_epochs, post.min_lr, post.weight_decay) == (5e-5, 5, 1e-5, 0.05)


def test_scala_as_released() -> None:
    """Their learning rate is for 512 images: of 1,024 twice, of DeiT-B's 512 once."""
    small, base = (load_experiment(f"scala_deit_{size}", ["recipe=released"], check_files=False) for size in "sb")
    assert (small.data.batch_size, small.optimizer.lr, base.data.batch_size, base.optimizer.lr) == (
        1024, 4e-3, 512, 1e-3,
    )  # fmt: skip
    assert EXPERIMENTS["scala_deit_s"].optimizer.lr == 2e-3
    for released in (small, base):
        assert released.trainer.precision == "16-mixed"
        assert (released.method.slice, released.method.sampling) == ("released", "official_bins")


def test_dcvit_in_single_precision_and_as_released() -> None:
    paper = EXPERIMENTS["dcvit_vit_b"]
    assert (paper.trainer.precision, paper.optimizer.warmup_epochs, paper.trainer.gradient_clip_val) == (
        "32-true", 20, 1.0,
    )  # fmt: skip
    released = load_experiment("dcvit_vit_b", ["recipe=released"], check_files=False)
    assert (released.optimizer.warmup_epochs, released.trainer.gradient_clip_val) == (0, None)


def test_post_training_has_a_warmup_and_an_end_of_its_own() -> None:
    search = OptimizerConfig(lr=1.0, warmup_epochs=3, min_lr=0.5, weight_decay=0.2)
    assert PostTrainingArguments().finetuning(search) == OptimizerConfig(
        lr=1e-4, warmup_epochs=0, min_lr=0.5, weight_decay=0.2
    )
    own = PostTrainingArguments(finetune_lr=2.0, finetune_warmup_epochs=4, finetune_min_lr=0.0)
    assert own.finetuning(search) == OptimizerConfig(lr=2.0, warmup_epochs=4, min_lr=0.0, weight_decay=0.2)
    with pytest.raises(
        UserError, match=r"^method\.finetune_warmup_epochs: 31\.0 is more than method\.finetune_epochs="
    ):
        load_experiment("uvc_digits", ["method.finetune_epochs=30", "method.finetune_warmup_epochs=31"])


@pytest.mark.parametrize("name", experiments())
def test_weights_of_the_hub_have_a_tag(name: str) -> None:
    experiment = EXPERIMENTS[name]
    named = {
        "model.name": experiment.model.name if experiment.model.pretrained is True else None,
        "teacher.model": experiment.teacher.model if experiment.teacher.pretrained is True else None,
    }
    for key, model in named.items():
        assert model is None or model in timm.list_pretrained(), f"{key}: {model}"


@pytest.mark.parametrize(
    "name", [name for name, experiment in EXPERIMENTS.items() if experiment.data.name == "imagenet"]
)
def test_the_papers_evaluate_a_crop_of_seven_eighths(name: str) -> None:
    assert EXPERIMENTS[name].data.crop_pct == 0.875


@pytest.mark.parametrize("method", ["dcvit", "practise"])
@pytest.mark.parametrize("network", ["resnet34", "mobilenetv2"])
def test_networks_of_convolutions_have_practises_recipe(method: str, network: str) -> None:
    """SGD at .02 with a momentum of .9, 2000 steps of 500 images in batches of 64, a tenth of the rate after 40 %."""
    experiment = EXPERIMENTS[f"{method}_{network}"]
    recipe, trainer, data = experiment.optimizer, experiment.trainer, experiment.data
    assert (recipe.name, recipe.lr, recipe.weight_decay, recipe.warmup_epochs) == ("momentum", 0.02, 1e-4, 0)
    assert (recipe.schedule, recipe.decay_at, recipe.decay_rate) == ("step", 0.4, 0.1)
    assert -(-data.num_samples // data.batch_size) * trainer.max_epochs == 2000
    assert (data.mixup, data.cutmix, data.re_prob, trainer.gradient_clip_val) == (0, 0, 0, None)


def test_vit_b_is_the_one_of_the_paper() -> None:
    """What timm calls `vit_base_patch16_224` has other weights since: `augreg2_in21k_ft_in1k`."""
    for name in ("dcvit_vit_b", "practise_vit_b"):
        assert EXPERIMENTS[name].model.name == "vit_base_patch16_224.augreg_in21k_ft_in1k"
