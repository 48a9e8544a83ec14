"""DC-ViT: any MACs target from a few unlabeled images (Zhang et al., CVPR 2024).

Legend: k the blocks that lose their attention, h the hidden units that each of them keeps (`plan`); the score of a
block is the divergence of its fine-tuned candidate from the original on a synthetic set. Where blocks leave as a whole,
one by one or in pairs, a candidate is called by the number of its first block.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from lightning_vitc.budget.plan import Plan
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.adoption import adopt_trials
from lightning_vitc.few_shot.block_plan import BlockPlan, block_target, measured_plan, plan_blocks, plan_of_blocks
from lightning_vitc.few_shot.candidates import block_name, must_have_room, planned_elimination, ranking, tried
from lightning_vitc.few_shot.compression import Attentions, Blocks, Compression
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.feature_matching import FeatureMatching, Matched, must_have_tokens, original_tokens
from lightning_vitc.few_shot.metric_set import metric_set
from lightning_vitc.few_shot.scores import score
from lightning_vitc.few_shot.units import Unit, candidates_of, unit_of
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.dropped_attention import behind_attentions
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import (
    Experiment,
    OptimizerConfig,
    SyntheticConfig,
    bounded,
    must_be_trained,
    must_keep_precision,
    must_read_no_label,
    path,
)
from lightning_vitc.training.teacher import Teacher

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for DC-ViT."""

    takes_budget: ClassVar[bool] = True
    budget_keys: ClassVar[tuple[str, ...]] = ("macs", "params", "drop_blocks", "latency_ms", "device", "batch_size")

    unit: Literal["attention", "block", "pair"] | None = (
        None  # what is compressed; default: attention, or block where there is none
    )
    partial: bool = False  # ours, of blocks of convolutions: the last one stays, narrower inside, to meet the budget
    candidates: list[int] | None = None  # blocks that may be compressed, or the first ones of pairs; see docs
    trials_of: str | None = path(None)  # a run that differs in finetune, score, score_on alone; its trials are used
    trials_at_once: int = bounded(4, gt=0)  # candidates that share the original's pass over a batch, and the memory
    finetune: Literal["progressive", "one_shot"] = "progressive"  # one_shot: all blocks at once, as many epochs
    trained: Literal["near", "whole"] = "near"  # near: up to the block after the last compressed one
    extra_blocks: int = bounded(0, ge=0)  # compress so many more than needed, each by less
    init: Literal["reuse", "reinit", "least_squares", "compensate"] = "reuse"  # of the small MLP; the last two are ours
    units: Literal["random", "activation"] = "random"  # hidden units that stay; activation: the largest after GELU
    matched: Literal["all", "class"] = "all"  # tokens that are compared in training
    score: Literal["kl", "mse"] = "kl"
    score_on: Literal["synthetic", "training"] = "synthetic"  # images
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)

    def validate(self, experiment: Any = None) -> None:
        """Rules with the experiment's other keys; a violation is a ValueError naming the key."""
        if self.synthetic.warmup >= self.synthetic.iterations:
            raise ValueError(
                f"method.synthetic.warmup: {self.synthetic.warmup} leaves nothing of "
                f"method.synthetic.iterations={self.synthetic.iterations}; make it less"
            )
        if experiment is None:
            return
        must_be_trained(experiment)
        must_keep_precision(experiment, "weights of {}'s candidates")
        must_read_no_label(experiment)
        if experiment.trainer.max_epochs is None:
            raise ValueError("trainer.max_epochs: missing; every fine-tuning of dcvit takes so many")
        dropping = experiment.callbacks.get("progressive_block_dropping")
        if dropping is None:
            raise ValueError("callbacks.progressive_block_dropping: missing, dcvit needs it; add 'base: [dcvit]'")
        if dropping.trained != self.trained:
            raise ValueError(
                f"callbacks.progressive_block_dropping.trained: {dropping.trained} contradicts "
                f"method.trained={self.trained}; set method.trained alone"
            )
        if self.partial and experiment.budget.drop_blocks is not None:
            raise ValueError("method.partial: budget.drop_blocks asks for whole blocks; give budget.macs instead")


class DCViT(FeatureMatching):
    """Fine-tunes networks with compressed blocks: the candidates of the trials, or the one that is compressed on.

    `ProgressiveBlockDropping` says how much of them is trained.

    Args:
        networks: by name.
        optimizer, teacher, matched, seed: see `FeatureMatching`.
        behind: of each network the number of the block behind its last compressed one; default: behind the last one
            without attention.
    """

    compresses = True

    def __init__(self, networks: Mapping[str, Backbone], optimizer: OptimizerConfig, teacher: Teacher | None,
                 matched: Matched = "all", seed: int = 0, behind: Mapping[str, int] | None = None):  # fmt: skip
        super().__init__(networks, optimizer, teacher, matched, seed)
        self.behind = behind or {name: behind_attentions(network.spec) for name, network in networks.items()}

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """k and h, exactly; of whole blocks how many."""
        keys, budget, table = experiment.method, experiment.budget, table_for(experiment, spec)
        must_have_tokens(spec, keys.matched)
        candidates = candidates_of(keys, spec)
        if (unit := unit_of(keys.unit, spec)) != "attention":
            _must_suit_whole_blocks(keys, unit)
            return Elimination.of(budget, spec, candidates, unit, table, keys.partial).plan()
        return plan_of_blocks(spec, block_target(budget, spec, candidates, table), candidates, keys.extra_blocks)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Plan, block trials, synthetic set, scores, progressive compression, a row (Algorithm 1).

        `hidden_units.json` holds the units of the dense network's blocks that those compressed in part have kept.
        """
        keys, stages = run.arguments, Stages.of(run)
        trials = stages.trials()
        seen = stages.images
        if keys.score_on == "synthetic":
            seen = metric_set(run, stages.original, keys.synthetic)
        compression = stages.compression
        chosen = compression.chosen(run.record("blocks", lambda: stages.ranking(trials, seen))["order"])
        if keys.finetune == "progressive":
            tried = compression.is_tried(chosen)
            network = trials[chosen[0]] if tried else stages.dense
            for number in range(2 if tried else 1, len(chosen) + 1):
                network = stages.finetuned(f"progressive_{number}", network, chosen[: number - 1], chosen, 1)
        else:
            network = stages.finetuned("one_shot", stages.dense, [], chosen, len(chosen))
        if not run.read_only and (kept := compression.record(chosen)):
            run.record("hidden_units", lambda: kept)
        run.add_row("dcvit", network, None, compression.left(chosen), **compression.columns(chosen))


@dataclass
class Stages:
    """The stages of a run and what they share: the dense network, its frozen copy, how it is compressed, few images."""

    run: "Pipeline"
    dense: Backbone
    original: Backbone
    compression: Compression
    images: Tensor

    @classmethod
    def of(cls, run: "Pipeline") -> "Stages":
        """Checked before anything is trained."""
        keys, spec = run.arguments, run.dense_spec
        candidates = candidates_of(keys, spec)
        must_have_tokens(spec, keys.matched)
        plan = cls._plan(run, spec, candidates)
        must_have_room(run, len(candidates), keys.trials_at_once)
        adopt_trials(run, keys.trials_of, ("method.finetune", "method.score"))
        dense = run.start(by_features=(keys.score, keys.score_on) == ("mse", "training"))
        images, kind = run.data.images_of("train"), Attentions if isinstance(plan, BlockPlan) else Blocks
        compression: Any = kind(plan, images, keys, run.experiment.seed)  # type: ignore[arg-type]
        return cls(run, dense, deepcopy(dense), compression, images)

    @classmethod
    def _plan(cls, run: "Pipeline", spec: ArchSpec, candidates: Sequence[int]) -> BlockPlan | Elimination:
        """Of a latency it is measured, and recorded as `plan.json`."""
        keys, budget, table = run.arguments, run.experiment.budget, run.latency.table()
        if (unit := unit_of(keys.unit, spec)) != "attention":
            return planned_elimination(run, Elimination.of(budget, spec, candidates, unit, table, keys.partial))
        target, extra = block_target(budget, spec, candidates, table), keys.extra_blocks
        if target.table is None:
            return plan_blocks(spec, target, candidates, extra)

        def measured() -> dict[str, Any]:
            plan, facts = measured_plan(spec, target, candidates, extra, run.latency.now)
            return {"blocks": plan.blocks, "hidden": plan.hidden, "latency_ms": facts}

        found = run.record("plan", measured)
        return BlockPlan(found["blocks"], found["hidden"])

    def trials(self) -> dict[int, Backbone]:
        """The fine-tuned network of every candidate."""
        keys = self.run.arguments
        candidates = candidates_of(keys, self.dense.spec)
        behind = {block_name(one): self.compression.behind([one]) for one in candidates}
        start = partial(self.compression.compress, self.dense, ())
        return tried(self.run, candidates, keys.trials_at_once, start, partial(self._module, behind))

    def ranking(self, trials: Mapping[int, Backbone], seen: Tensor) -> dict[str, Any]:
        """Every candidate by its score on `seen` (eq. 6), and beside it the loss it was trained to."""
        of = partial(score, self.original.to(self.run.processes.device))
        scores = {block: of(network, seen, self.run.arguments.score) for block, network in trials.items()}
        losses = {str(block): of(network, self.images, "mse") for block, network in trials.items()}
        return ranking(scores, training_losses=losses)

    def finetuned(
        self, stage: str, network: Backbone, done: Sequence[int], chosen: Sequence[int], times: int
    ) -> Backbone:
        """The network with as many more candidates compressed as `times`, fine-tuned for so many times the epochs.

        Args:
            stage: its name.
            network: where those that are done are compressed.
            done: candidates.
            chosen: all that are compressed in the end.
            times: candidates, the first ones behind those that are done.
        """

        def build() -> DCViT:
            compressed, so_far = network, list(done)
            for candidate in chosen[len(done) : len(done) + times]:
                compress = self.compression.compress_last if candidate == chosen[-1] else self.compression.compress
                compressed = compress(compressed, so_far, candidate)
                so_far.append(candidate)
            return self._module({"compressed": self.compression.behind(so_far)}, {"compressed": compressed})

        epochs = times * self.run.experiment.trainer.max_epochs  # type: ignore[operator]
        return self.run.fit(stage, build, epochs, "last", validate=False).backbone

    def _module(self, behind: Mapping[str, int], networks: Mapping[str, Backbone]) -> DCViT:
        teacher, keys = original_tokens(self.original), self.run.arguments
        return DCViT(networks, self.run.optimizer, teacher, keys.matched, self.run.experiment.seed, behind)


def _must_suit_whole_blocks(keys: Arguments, unit: Unit) -> None:
    for key, default in (("init", "reuse"), ("extra_blocks", 0)):
        if getattr(keys, key) != default:
            raise UserError(f"method.{key}: {getattr(keys, key)} is for method.unit=attention, and here it is {unit}")
