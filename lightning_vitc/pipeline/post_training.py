"""What follows a decision on what to prune: it is recorded, carried out and trained, the dense network teaching."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_vitc.budget.masks import Masks, as_indices, from_indices
from lightning_vitc.budget.prunable import kept_of, pruned_spec
from lightning_vitc.budget.target import Target
from lightning_vitc.compensation.calibration import SEEN_AT_ONCE, Calibration
from lightning_vitc.compensation.in_order import compensated
from lightning_vitc.latency.fitting import fit
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.training.supervised import Distillation, Supervised
from lightning_vitc.training.teacher import Teacher

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


def teacher_of(run: "Pipeline", dense: Backbone) -> Teacher | None:
    """The teacher that the experiment names, else the dense network itself; none without distillation."""
    if not run.arguments.distillation:
        return None
    return run.teacher() or Teacher(deepcopy(dense), dense.spec.num_classes)


def decided_masks(
    run: "Pipeline", dense: ArchSpec, target: Target, decide: Callable[[int], Masks]
) -> Masks:  # fmt: skip
    """What is kept of the dense network, decided once and recorded as `architecture.json`.

    A latency is measured, and the limit corrected until what is decided fits.

    Args:
        run: whose record it is.
        dense: the network that is cut, with its gates if it has some.
        target: the budget.
        decide: the decision for a limit.

    Raises:
        RuntimeError: for a decision beyond the budget: a fault of the method, not of a user.
        UserError: for a latency that was not reached.
    """
    masks = from_indices(dense, run.record("architecture", lambda: _decision(run, dense, target, decide)))
    if target.table is None and (total := target.measure(pruned_spec(dense, masks))) > target.amount:
        raise RuntimeError(
            f"{run.experiment.method_name} decided for {total:,}, beyond the budget of {target.amount:,}"
        )
    return masks


def _decision(run: "Pipeline", dense: ArchSpec, target: Target, decide: Callable[[int], Masks]) -> dict[str, Any]:
    def indices(limit: int) -> dict[str, Any]:
        return as_indices(decide(limit))

    if target.table is None:
        return indices(target.amount)
    found = fit(target.amount, indices, lambda kept: run.latency.now(pruned_spec(dense, from_indices(dense, kept))))
    return {**found.choice, "latency_ms": found.facts(target.amount)}


def post_train(
    run: "Pipeline", network: Backbone, masks: Masks, teacher: Teacher | None
) -> tuple[Backbone, tuple[int, ...]]:
    """Cut the network down to the masks and train it as the stage `finetune`; also the dense numbers of its blocks.

    The method's keys say how, see `PostTrainingArguments`.
    """
    keys, kept = run.arguments, kept_of(network.spec, masks)
    weights = compensated_weights(run, network, masks) if getattr(keys, "start", "cut") == "compensate" else None
    taught = Distillation("soft", keys.distillation, keys.temperature, keys.kd_reduction)
    recipe = keys.finetuning(run.optimizer)

    def cut() -> Backbone:
        small = run.compacted(network, kept)
        if weights is not None:
            small.load_state_dict(weights)
        return small

    module = run.fit("finetune", lambda: Supervised(cut(), recipe, teacher, taught), epochs=keys.finetune_epochs)
    return module.backbone, kept.sources


def compensated_weights(run: "Pipeline", network: Backbone, masks: Masks) -> dict[str, Tensor]:
    """Of what is left, with what goes folded into it; solved for on training images by all processes together."""

    def solve() -> dict[str, Tensor]:
        processes, images = run.processes, run.data.spread_images("train", run.arguments.start_images)
        seen = Calibration.of(images, SEEN_AT_ONCE, processes.rank, processes.count)
        return compensated(deepcopy(network).to(processes.device), masks, seen).cpu().state_dict()

    return run.computed("compensated", solve)
