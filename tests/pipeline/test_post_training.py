"""What is left after a decision is trained by the method's own keys."""

from types import SimpleNamespace
from typing import Any

from lightning_vitc.budget.masks import Masks
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.pipeline.post_training import post_train
from lightning_vitc.schema import OptimizerConfig, PostTrainingArguments
from lightning_vitc.training.supervised import Distillation
from lightning_vitc.training.teacher import Teacher


def test_the_recipe_and_the_loss_of_post_training_are_those_of_its_keys() -> None:
    small: dict[str, Any] = dict(
        img_size=8, patch_size=4, in_chans=1, embed_dim=48, num_heads=3, depth=2, num_classes=4
    )
    network, seen = create_backbone("deit_tiny_distilled_patch16_224", **small), {}
    keys = PostTrainingArguments(
        distillation=0.3, temperature=2.0, kd_reduction="numel", finetune_epochs=7, finetune_lr=0.5,
        finetune_warmup_epochs=3, finetune_min_lr=0.25,
    )  # fmt: skip

    def fit(stage: str, build: Any, epochs: int) -> Any:
        seen.update(stage=stage, epochs=epochs, module=build())
        return seen["module"]

    run: Any = SimpleNamespace(
        arguments=keys, optimizer=OptimizerConfig(lr=1.0, warmup_epochs=9, min_lr=0.0, weight_decay=0.2), fit=fit,
        compacted=compact_backbone,
    )  # fmt: skip
    left, sources = post_train(run, network, Masks.full(network.spec), Teacher(network, 4))
    module = seen["module"]
    assert (seen["stage"], seen["epochs"], sources, left) == ("finetune", 7, (0, 1), module.backbone)
    assert module.recipe == OptimizerConfig(lr=0.5, warmup_epochs=3, min_lr=0.25, weight_decay=0.2)
    assert module.distillation == Distillation("soft", 0.3, 2.0, "numel")
    assert module.backbone.distilled_training
