"""PRACTISE: whole blocks dropped by how well a few images recover them (Wang & Wu, CVPR 2023); baseline of DC-ViT.

Legend: R the squared difference of tokens on the few images after linear adaptors were trained around a missing block;
score = R / latency reduction in percent, smaller is better.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_vitc.budget.plan import Plan, Reachable, Sketch
from lightning_vitc.budget.target import Target
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.few_shot.adaptors import adapted
from lightning_vitc.few_shot.adoption import adopt_trials
from lightning_vitc.few_shot.block_plan import BlockCosts, block_target, fewest_blocks
from lightning_vitc.few_shot.candidates import chosen_candidates, must_have_room, ranking, tried
from lightning_vitc.few_shot.feature_matching import FeatureMatching, original_tokens
from lightning_vitc.few_shot.latency import latencies
from lightning_vitc.few_shot.scores import score
from lightning_vitc.latency.fitting import fit
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import Experiment, bounded, must_be_trained, must_keep_precision, must_read_no_label, path

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

LEAST = 1e-3  # percent: a reduction that noise hides


@dataclass
class Arguments:
    """Keys of `method:` for PRACTISE."""

    takes_budget: ClassVar[bool] = True
    budget_keys: ClassVar[tuple[str, ...]] = ("macs", "params", "drop_blocks", "latency_ms", "device", "batch_size")

    candidates: list[int] | None = None  # blocks that may be dropped; default: all but the first and the last
    trials_of: str | None = path(None)  # a run that differs in budget and finetune_times alone; its trials are used
    trials_at_once: int = bounded(4, gt=0)  # candidates that share the original's pass over a batch, and the memory
    latency_batch: int = bounded(64, gt=0)  # images of the measured forward passes
    finetune_times: int | None = bounded(None, gt=0)  # max_epochs; default: as many as DC-ViT at this budget

    def validate(self, experiment: Any = None) -> None:
        """Rules with the experiment's other keys; a violation is a ValueError naming the key."""
        if experiment is None:
            return
        must_be_trained(experiment)
        must_keep_precision(experiment, "weights of {}'s candidates")
        must_read_no_label(experiment)
        if experiment.trainer.max_epochs is None:
            raise ValueError("trainer.max_epochs: missing; every fine-tuning of practise takes so many")


class Practise(FeatureMatching):
    """Trains what requires gradients to give the original's tokens: adaptors in the trials, then the whole network."""

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """Whole blocks: the fewest that fit."""
        candidates = chosen_candidates(experiment.method.candidates, spec)
        target = block_target(experiment.budget, spec, "dcvit", candidates, table_for(experiment, spec))
        block = BlockCosts.of(spec, target, candidates).block
        reachable = Reachable(target.dense - len(candidates) * block, target.dense - block, block)
        try:
            number = dropped_blocks(spec, target, candidates)
        except UserError as error:
            return Plan(target.quantity, target.amount, reachable, dense=target.measured_dense, refusal=str(error))
        small = _without(spec, candidates[:number])
        details = {"blocks": number, "macs": costs.macs(small, target.convention, target.method),
                   "params": costs.params(small)}  # fmt: skip
        return Plan(target.quantity, target.amount, reachable, details, dense=target.measured_dense,
                    sketch=lambda: Sketch(small))  # fmt: skip

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Adaptor trials, scores, the best blocks dropped at once from the original, fine-tuning, a row."""
        keys, spec = run.arguments, run.dense_spec
        candidates = chosen_candidates(keys.candidates, spec)
        number = cls._number(run, spec, candidates)
        must_have_room(run, len(candidates), keys.trials_at_once)
        adopt_trials(run, keys.trials_of, ("budget.", "method.finetune_times"))
        dense = run.start(by_features=True)
        original = deepcopy(dense)
        build = partial(cls, optimizer=run.optimizer, teacher=original_tokens(original), seed=run.experiment.seed)

        trials = tried(run, candidates, keys.trials_at_once, partial(adapted, dense), build)
        ranked = run.record("blocks", lambda: cls._ranking(run, original, trials))
        chosen = tuple(sorted(ranked["order"][:number]))
        epochs = (keys.finetune_times or cls._times(run, spec)) * run.experiment.trainer.max_epochs  # type: ignore[operator]
        module = run.fit(
            "finetune", lambda: build({"dropped": _trainable(compact_backbone(dense, without_blocks(dense, chosen)))}),
            epochs, select="last", validate=False,
        )  # fmt: skip
        left = tuple(block for block in range(spec.depth) if block not in chosen)
        run.add_row("practise", module.backbone, None, left, blocks=list(chosen))

    @classmethod
    def _number(cls, run: "Pipeline", spec: ArchSpec, candidates: Sequence[int]) -> int:
        """Of blocks that are dropped; of a latency it is measured, and recorded as `plan.json`."""
        target = block_target(run.experiment.budget, spec, "dcvit", candidates, run.latency.table())
        if target.table is None:
            return dropped_blocks(spec, target, candidates)

        def measured() -> dict[str, Any]:
            found = fit(
                target.amount,
                lambda limit: dropped_blocks(spec, replace(target, amount=min(limit, target.dense)), candidates),
                lambda number: run.latency.now(_without(spec, candidates[:number])),
            )
            return {"blocks": found.choice, "latency_ms": found.facts(target.amount)}

        return int(run.record("plan", measured)["blocks"])

    @staticmethod
    def _times(run: "Pipeline", spec: ArchSpec) -> int:
        """Fine-tunings that DC-ViT's network goes through at the same budget: one a block that it compresses."""
        candidates = chosen_candidates(run.arguments.candidates, spec)
        target = block_target(run.experiment.budget, spec, "dcvit", candidates, run.latency.table())
        return fewest_blocks(target.dense - target.amount, BlockCosts.of(spec, target, candidates))

    @classmethod
    def _ranking(cls, run: "Pipeline", original: Backbone, trials: dict[int, Backbone]) -> dict[str, Any]:
        """R of every candidate over what dropping its block saves, measured."""
        device, training = run.processes.device, run.data.images_of("train")
        original = original.to(device)
        batch = training.repeat(-(-run.arguments.latency_batch // len(training)), 1, 1, 1)
        smaller: dict[Any, Backbone] = {
            block: compact_backbone(original, without_blocks(original, (block,))) for block in trials
        }
        times = latencies({"dense": original, **smaller}, batch[: run.arguments.latency_batch].to(device))
        saved = {block: 100 * (1 - times[block] / times["dense"]) for block in trials}
        errors = {block: score(original, network, training, "mse") for block, network in trials.items()}
        scores = {block: errors[block] / max(saved[block], LEAST) for block in trials}
        return ranking(scores, training_losses={str(block): error for block, error in errors.items()},
                       latency_reductions={str(block): percent for block, percent in saved.items()})  # fmt: skip


def dropped_blocks(spec: ArchSpec, target: Target, candidates: Sequence[int]) -> int:
    """How many whole blocks have to go.

    Raises:
        UserError: where the target is the dense network, or so many are no candidates.
    """
    block = BlockCosts.of(spec, target, candidates).block
    number, least = -(-(target.dense - target.amount) // block), target.dense - len(candidates) * block
    if number == 0:
        raise UserError(
            f"budget.{target.quantity}: {target.shown(target.amount)} is the dense network; nothing is to be dropped"
        )
    if number > len(candidates):
        raise UserError(
            f"budget.{target.quantity}: {target.shown(target.amount)} needs {counted(number, 'block')} dropped, and "
            f"{counted(len(candidates), 'is a candidate', 'are candidates')} (method.candidates); the least that they "
            f"reach is {target.shown(least)}"
        )
    return number


def _without(spec: ArchSpec, dropped: Sequence[int]) -> ArchSpec:
    return spec.with_blocks([None if number in dropped else block for number, block in enumerate(spec.blocks)])


def _trainable(network: Backbone) -> Backbone:
    """All but the classifier."""
    network.train_only(lambda name: not name.startswith(("head", "fc_norm")))
    return network
