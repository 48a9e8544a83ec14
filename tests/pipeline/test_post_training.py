"""What is left after a decision is trained by the method's own keys."""

from types import SimpleNamespace
from typing import Any

import torch

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.compensation.calibration import SEEN_AT_ONCE, Calibration
from lightning_vitc.compensation.in_order import compensated
from lightning_vitc.methods import one_shot
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


def test_post_training_may_start_from_compensated_weights() -> None:
    """Solved for once, on training images, and read when the run is continued."""
    torch.manual_seed(0)
    network = create_backbone("deit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=48, num_heads=3,
                              depth=2, num_classes=4).eval()  # fmt: skip
    masks, images, asked = Masks.full(network.spec), torch.randn(40, 1, 8, 8), []
    masks.channels[:, ::2] = False

    def computed(name: str, compute: Any) -> Any:
        asked.append(name)
        return compute()

    run: Any = SimpleNamespace(
        arguments=one_shot.Arguments(start="compensate", start_images=40), optimizer=OptimizerConfig(lr=1.0),
        fit=lambda stage, build, epochs: build(), compacted=compact_backbone, computed=computed,
        processes=SimpleNamespace(rank=0, count=1, device=torch.device("cpu")),
        data=SimpleNamespace(spread_images=lambda split, count: images[:count]),
    )  # fmt: skip
    left, _ = post_train(run, network, masks, None)
    expected = compensated(network, masks, Calibration.of(images, SEEN_AT_ONCE))
    assert asked == ["compensated"]
    assert all(torch.equal(one, left.state_dict()[name]) for name, one in expected.state_dict().items())
    with torch.no_grad():
        cut = compact_backbone(network, kept_of(network.spec, masks)).eval()
        errors = [float((one(images) - network(images)).square().mean()) for one in (left.eval(), cut)]
    assert errors[0] < 0.5 * errors[1]
