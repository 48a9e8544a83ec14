"""Post-training of a compacted network: the architecture is fixed, the dense network teaches."""

from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_vitc.backbone import Backbone
from lightning_vitc.kept import Kept
from lightning_vitc.methods.dense import Arguments, Dense
from lightning_vitc.training.teacher import Teacher

if TYPE_CHECKING:
    from lightning_vitc.training.pipeline import Pipeline


def post_train(
    run: "Pipeline", network: Backbone, kept: Kept, teacher: Teacher | None
) -> tuple[Backbone, tuple[int, ...]]:
    """Cut `kept` out of `network` and train it as the stage `finetune`; also the dense numbers of its blocks.

    The method's keys say how: `distillation` (share of the teacher), `temperature`, `kd_reduction`,
    `finetune_epochs` and `finetune_lr`.
    """
    keys = run.arguments
    loss = Arguments(
        distillation="soft", distillation_weight=keys.distillation, temperature=keys.temperature,
        kd_reduction=keys.kd_reduction,
    )  # fmt: skip
    recipe = replace(run.optimizer, lr=keys.finetune_lr, warmup_epochs=0)
    module = run.fit(
        "finetune", lambda: Dense(run.compacted(network, kept), recipe, teacher, loss), epochs=keys.finetune_epochs
    )
    return module.backbone, tuple(block.source for block in kept.blocks)
