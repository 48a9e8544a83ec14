"""What follows a decision on what to prune: it is recorded, carried out and trained, the dense network teaching."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_vitc.backbone import Backbone
from lightning_vitc.budget.masks import Masks, as_indices, from_indices
from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.methods.dense import Arguments, Dense
from lightning_vitc.training.teacher import Teacher

if TYPE_CHECKING:
    from lightning_vitc.training.pipeline import Pipeline


def teacher_of(run: "Pipeline", dense: Backbone) -> Teacher | None:
    """The teacher that the experiment names, else the dense network itself; none without distillation."""
    if not run.arguments.distillation:
        return None
    return run.teacher() or Teacher(deepcopy(dense), dense.spec.num_classes)


def decided_masks(run: "Pipeline", dense: Backbone, costs: UnitCosts, limit: int, decide: Callable[[], Masks]) -> Masks:
    """What is kept of the dense network, decided once and recorded as `architecture.json`.

    Args:
        run: whose record it is.
        dense: the network that is cut.
        costs: of its pieces, in what the budget counts.
        limit: the budget.
        decide: the decision.

    Raises:
        RuntimeError: for a decision beyond the budget: a fault of the method, not of a user.
    """
    masks = from_indices(dense.spec, run.record("architecture", lambda: as_indices(decide())))
    if (total := costs.total(masks)) > limit:
        raise RuntimeError(f"{run.experiment.method_name} decided for {total:,}, beyond the budget of {limit:,}")
    return masks


def post_train(
    run: "Pipeline", network: Backbone, masks: Masks, teacher: Teacher | None
) -> tuple[Backbone, tuple[int, ...]]:
    """Cut the network down to the masks and train it as the stage `finetune`; also the dense numbers of its blocks.

    The method's keys say how, see `PostTrainingArguments`.
    """
    keys, kept = run.arguments, kept_of(network.spec, masks)
    loss = Arguments(
        distillation="soft", distillation_weight=keys.distillation, temperature=keys.temperature,
        kd_reduction=keys.kd_reduction,
    )  # fmt: skip
    recipe = replace(run.optimizer, lr=keys.finetune_lr, warmup_epochs=0)
    module = run.fit(
        "finetune", lambda: Dense(run.compacted(network, kept), recipe, teacher, loss), epochs=keys.finetune_epochs
    )
    return module.backbone, tuple(block.source for block in kept.blocks)
