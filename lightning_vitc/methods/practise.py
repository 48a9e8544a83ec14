"""PRACTISE: whole blocks dropped by how well a few images recover them (Wang & Wu, CVPR 2023); baseline of DC-ViT.

Legend: R the squared difference of tokens on the few images after linear adaptors were trained around a missing block;
score = R / latency reduction in percent, smaller is better.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning_vitc.budget.plan import Plan
from lightning_vitc.few_shot.adaptors import adapted, merged
from lightning_vitc.few_shot.adoption import adopt_trials
from lightning_vitc.few_shot.block_plan import BlockCosts, block_target, fewest_blocks
from lightning_vitc.few_shot.candidates import must_have_room, planned_elimination, ranking, tried
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.feature_matching import FeatureMatching, original_tokens
from lightning_vitc.few_shot.latency import latencies
from lightning_vitc.few_shot.scores import score
from lightning_vitc.few_shot.units import candidates_of, unit_of
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import is_rear, without_blocks
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import Experiment, bounded, must_be_trained, must_keep_precision, must_read_no_label, path

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

LEAST = 1e-3  # percent: a reduction that noise hides


@dataclass
class Arguments:
    """Keys of `method:` for PRACTISE."""

    takes_budget: ClassVar[bool] = True
    unit: ClassVar[Literal["block"]] = "block"
    budget_keys: ClassVar[tuple[str, ...]] = ("macs", "params", "drop_blocks", "latency_ms", "device", "batch_size")

    candidates: list[int] | None = None  # blocks that may be dropped; default: all but the first and the last
    trials_of: str | None = path(None)  # a run that differs in budget and finetune_times alone; its trials are used
    trials_at_once: int = bounded(4, gt=0)  # candidates that share the original's pass over a batch, and the memory
    adaptors: Literal["discarded", "merged"] = "discarded"  # after the trials; merged is ours
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
        candidates = candidates_of(experiment.method, spec)
        return Elimination.of(experiment.budget, spec, candidates, table=table_for(experiment, spec)).plan()

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Adaptor trials, scores, the best blocks dropped at once from the original, fine-tuning, a row."""
        keys, spec = run.arguments, run.dense_spec
        candidates = candidates_of(keys, spec)
        table = run.latency.table()
        plan = planned_elimination(run, Elimination.of(run.experiment.budget, spec, candidates, table=table))
        must_have_room(run, len(candidates), keys.trials_at_once)
        adopt_trials(run, keys.trials_of, ("budget.", "method.finetune_times", "method.adaptors"))
        dense = run.start(by_features=True)
        original = deepcopy(dense)
        build = partial(cls, optimizer=run.optimizer, teacher=original_tokens(original), seed=run.experiment.seed)

        trials = tried(run, candidates, keys.trials_at_once, partial(adapted, dense), partial(build, resting=True))
        ranked = run.record("blocks", lambda: cls._ranking(run, original, trials))
        chosen = tuple(sorted(plan.chosen(ranked["order"])))
        epochs = (keys.finetune_times or cls._times(run, spec, len(chosen))) * run.experiment.trainer.max_epochs  # type: ignore[operator]

        def start() -> FeatureMatching:
            used = trials if keys.adaptors == "merged" else None
            return build({"dropped": _trainable(merged(dense, used, chosen) if used else _dropped(dense, chosen))})

        module = run.fit("finetune", start, epochs, select="last", validate=False)
        left = tuple(block for block in range(spec.depth) if block not in chosen)
        run.add_row("practise", module.backbone, None, left, blocks=list(chosen))

    @staticmethod
    def _times(run: "Pipeline", spec: ArchSpec, dropped: int) -> int:
        """Fine-tunings that DC-ViT's network goes through at the same budget: one a block that it compresses."""
        if unit_of(None, spec) != "attention":
            return dropped
        candidates = candidates_of(run.arguments, spec)
        target = block_target(run.experiment.budget, spec, candidates, run.latency.table())
        return fewest_blocks(target.dense - target.amount, BlockCosts.of(spec, target, candidates))

    @classmethod
    def _ranking(cls, run: "Pipeline", original: Backbone, trials: dict[int, Backbone]) -> dict[str, Any]:
        """R of every candidate over what dropping its block saves, measured."""
        device, training = run.processes.device, run.data.images_of("train")
        original = original.to(device)
        batch = training.repeat(-(-run.arguments.latency_batch // len(training)), 1, 1, 1)
        smaller: dict[Any, Backbone] = {block: _dropped(original, (block,)) for block in trials}
        times = latencies({"dense": original, **smaller}, batch[: run.arguments.latency_batch].to(device))
        saved = {block: 100 * (1 - times[block] / times["dense"]) for block in trials}
        errors = {block: score(original, network, training, "mse") for block, network in trials.items()}
        scores = {block: errors[block] / max(saved[block], LEAST) for block in trials}
        return ranking(scores, training_losses={str(block): error for block, error in errors.items()},
                       latency_reductions={str(block): percent for block, percent in saved.items()})  # fmt: skip


def _dropped(network: Backbone, blocks: Sequence[int]) -> Backbone:
    """A copy without blocks."""
    return compact_backbone(network, without_blocks(network, tuple(blocks)))


def _trainable(network: Backbone) -> Backbone:
    """All but the classifier."""
    network.train_only(lambda name: not is_rear(name))
    return network
