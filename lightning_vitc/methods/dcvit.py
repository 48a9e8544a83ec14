"""DC-ViT: any MACs target from a few unlabeled images (Zhang et al., CVPR 2024).

Legend: k the blocks that lose their attention, h the hidden units that each of them keeps (`plan`); the score of a
block is the divergence of its fine-tuned candidate from the original on a synthetic set.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from lightning_vitc.budget.plan import Plan
from lightning_vitc.few_shot.adoption import adopt_trials
from lightning_vitc.few_shot.block_plan import BlockPlan, block_target, measured_plan, plan_blocks, plan_of_blocks
from lightning_vitc.few_shot.candidates import chosen_candidates, must_have_room, ranking, tried
from lightning_vitc.few_shot.feature_matching import FeatureMatching, must_have_tokens, original_tokens
from lightning_vitc.few_shot.metric_set import metric_set
from lightning_vitc.few_shot.scores import score
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.dropped_attention import drop_attention, units_that_stay
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import (
    Experiment,
    SyntheticConfig,
    bounded,
    must_be_trained,
    must_keep_precision,
    must_read_no_label,
    path,
)

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for DC-ViT."""

    takes_budget: ClassVar[bool] = True
    budget_keys: ClassVar[tuple[str, ...]] = ("macs", "params", "drop_blocks", "latency_ms", "device", "batch_size")

    candidates: list[int] | None = None  # blocks that may be compressed; default: all but the first and the last
    trials_of: str | None = path(None)  # a run that differs in finetune, score, score_on alone; its trials are used
    trials_at_once: int = bounded(4, gt=0)  # candidates that share the original's pass over a batch, and the memory
    finetune: Literal["progressive", "one_shot"] = "progressive"  # one_shot: all blocks at once, as many epochs
    trained: Literal["near", "whole"] = "near"  # near: up to the block after the last compressed one
    extra_blocks: int = bounded(0, ge=0)  # compress so many more than needed, each by less
    init: Literal["reuse", "reinit", "least_squares"] = "reuse"  # of the small MLP; least_squares is ours
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


class DCViT(FeatureMatching):
    """Fine-tunes networks with compressed blocks: the candidates of the trials, or the one that is compressed on.

    `ProgressiveBlockDropping` says how much of them is trained.
    """

    compresses = True

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """k and h, exactly."""
        keys = experiment.method
        must_have_tokens(spec, keys.matched)
        candidates = chosen_candidates(keys.candidates, spec)
        target = block_target(experiment.budget, spec, "dcvit", candidates, table_for(experiment, spec))
        return plan_of_blocks(spec, target, candidates, keys.extra_blocks)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Plan, block trials, synthetic set, scores, progressive compression, a row (Algorithm 1).

        `hidden_units.json` holds the units of the dense MLPs that the compressed blocks have kept.
        """
        keys, stages = run.arguments, Stages.of(run)
        trials = stages.trials()
        seen = stages.images
        if keys.score_on == "synthetic":
            seen = metric_set(run, stages.original, keys.synthetic)
        chosen = run.record("blocks", lambda: stages.ranking(trials, seen))["order"][: stages.plan.blocks]
        if keys.finetune == "progressive":
            network = trials[chosen[0]]
            for number, block in enumerate(chosen[1:], 2):
                network = stages.finetuned(f"progressive_{number}", partial(stages.compress, network, block))
        else:
            network = stages.finetuned("one_shot", partial(reduce, stages.compress, chosen, stages.dense), len(chosen))
        if not run.read_only:
            run.record("hidden_units", lambda: {str(block): stages.units[block] for block in sorted(chosen)})
        run.add_row("dcvit", network, None, blocks=sorted(chosen), hidden=stages.plan.hidden)


@dataclass
class Stages:
    """The stages of a run and what they share: the dense network, its frozen copy, the plan, the few images."""

    run: "Pipeline"
    dense: Backbone
    original: Backbone
    plan: BlockPlan
    images: Tensor
    units: dict[int, list[int]] = field(
        default_factory=dict
    )  # hidden ones that a block kept when it was compressed last

    @classmethod
    def of(cls, run: "Pipeline") -> "Stages":
        """Checked before anything is trained."""
        keys, spec = run.arguments, run.dense_spec
        candidates = chosen_candidates(keys.candidates, spec)
        must_have_tokens(spec, keys.matched)
        plan = cls._plan(run, spec, candidates)
        must_have_room(run, len(candidates), keys.trials_at_once)
        adopt_trials(run, keys.trials_of, ("method.finetune", "method.score"))
        dense = run.start(by_features=(keys.score, keys.score_on) == ("mse", "training"))
        return cls(run, dense, deepcopy(dense), plan, run.data.images_of("train"))

    @classmethod
    def _plan(cls, run: "Pipeline", spec: ArchSpec, candidates: Sequence[int]) -> BlockPlan:
        """Of a latency it is measured, and recorded as `plan.json`."""
        target = block_target(run.experiment.budget, spec, "dcvit", candidates, run.latency.table())
        extra = run.arguments.extra_blocks
        if target.table is None:
            return plan_blocks(spec, target, candidates, extra)

        def measured() -> dict[str, Any]:
            plan, facts = measured_plan(spec, target, candidates, extra, run.latency.now)
            return {"blocks": plan.blocks, "hidden": plan.hidden, "latency_ms": facts}

        found = run.record("plan", measured)
        return BlockPlan(found["blocks"], found["hidden"])

    def trials(self) -> dict[int, Backbone]:
        """The fine-tuned candidate of every block."""
        keys = self.run.arguments
        candidates = chosen_candidates(keys.candidates, self.dense.spec)
        return tried(self.run, candidates, keys.trials_at_once, partial(self.compress, self.dense), self._module)

    def compress(self, network: Backbone, block: int) -> Backbone:
        """The network without the attention of one more block; its hidden units that stay are noted."""
        keys, seed = self.run.arguments, self.run.experiment.seed
        drawn: dict[str, Any] = dict(seed=seed, images=self.images)
        units = units_that_stay(network, block, self.plan.hidden, units=keys.units, **drawn)
        self.units[block] = units.tolist()
        return drop_attention(network, block, units, init=keys.init, **drawn)

    def ranking(self, trials: Mapping[int, Backbone], seen: Tensor) -> dict[str, Any]:
        """Every candidate by its score on `seen` (eq. 6), and beside it the loss it was trained to."""
        of = partial(score, self.original.to(self.run.processes.device))
        scores = {block: of(network, seen, self.run.arguments.score) for block, network in trials.items()}
        losses = {str(block): of(network, self.images, "mse") for block, network in trials.items()}
        return ranking(scores, training_losses=losses)

    def finetuned(self, stage: str, start: Callable[[], Backbone], times: int = 1) -> Backbone:
        """The network that `start` makes, after a fine-tuning of so many times the epochs."""
        epochs = times * self.run.experiment.trainer.max_epochs  # type: ignore[operator]
        module = self.run.fit(stage, lambda: self._module({"compressed": start()}), epochs, "last", validate=False)
        return module.backbone

    def _module(self, networks: Mapping[str, Backbone]) -> DCViT:
        teacher, keys = original_tokens(self.original), self.run.arguments
        return DCViT(networks, self.run.optimizer, teacher, keys.matched, self.run.experiment.seed)
