"""DC-ViT: any MACs target from a few unlabeled images (Zhang et al., CVPR 2024).

Legend: k the blocks that lose their attention, h the hidden units that each of them keeps (`plan`); the score of a
block is the divergence of its fine-tuned candidate from the original on a synthetic set.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.backbone import Backbone
from lightning_vitc.few_shot.block_plan import block_target, plan_blocks, plan_of_blocks
from lightning_vitc.few_shot.candidates import chosen_candidates, must_have_room, ranking, tried
from lightning_vitc.few_shot.dropped_attention import drop_attention
from lightning_vitc.few_shot.feature_matching import FeatureMatching, original_tokens
from lightning_vitc.few_shot.metric_set import metric_set
from lightning_vitc.few_shot.scores import score
from lightning_vitc.planning import Plan
from lightning_vitc.schema import Experiment, SyntheticConfig, bounded

if TYPE_CHECKING:
    from lightning_vitc.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for DC-ViT."""

    takes_budget: ClassVar[bool] = True
    budget_keys: ClassVar[tuple[str, ...]] = ("macs", "params", "drop_blocks")

    candidates: list[int] | None = None  # blocks that may be compressed; default: all but the first and the last
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
        if experiment is None:
            return
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
        keys, target = experiment.method, block_target(experiment.budget, spec, "dcvit")
        return plan_of_blocks(spec, target, len(chosen_candidates(keys.candidates, spec.depth)), keys.extra_blocks)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Plan, block trials, synthetic set, scores, progressive compression, a row (Algorithm 1)."""
        keys, seed, spec = run.arguments, run.experiment.seed, run.spec
        candidates = chosen_candidates(keys.candidates, spec.depth)
        must_have_room(run.directory.path, spec, len(candidates))
        target = block_target(run.experiment.budget, spec, "dcvit")
        plan = plan_blocks(spec, target, len(candidates), keys.extra_blocks)
        dense, images = run.dense(), run.data.images_of("train")
        original = deepcopy(dense)
        compress = partial(drop_attention, hidden=plan.hidden, seed=seed, images=images, units=keys.units,
                           init=keys.init)  # fmt: skip
        build = partial(cls, optimizer=run.optimizer, teacher=original_tokens(original), matched=keys.matched,
                        seed=seed)  # fmt: skip

        trials = tried(run, candidates, keys.trials_at_once, partial(compress, dense), build)
        ranked = run.record("blocks", lambda: cls._ranking(run, original, trials))
        chosen = ranked["order"][: plan.blocks]
        if keys.finetune == "progressive":
            network = trials[chosen[0]]
            for number, block in enumerate(chosen[1:], 2):
                network = cls._finetuned(run, f"progressive_{number}", build, partial(compress, network, block))
        else:
            network = cls._finetuned(run, "one_shot", build, partial(reduce, compress, chosen, dense), len(chosen))
        run.add_row("dcvit", network, None, blocks=sorted(chosen), hidden=plan.hidden)

    @classmethod
    def _ranking(cls, run: "Pipeline", original: Backbone, trials: dict[int, Backbone]) -> dict[str, Any]:
        """Every candidate by its score (eq. 6), and beside it the loss it was trained to on its few images."""
        keys, training = run.arguments, run.data.images_of("train")
        images = metric_set(run, original, keys.synthetic) if keys.score_on == "synthetic" else training
        of = partial(score, original.to(run.processes.device))
        scores = {block: of(network, images, keys.score) for block, network in trials.items()}
        losses = {block: of(network, training, "mse") for block, network in trials.items()}
        return ranking(scores, training_losses={str(block): loss for block, loss in losses.items()})

    @classmethod
    def _finetuned(cls, run: "Pipeline", stage: str, build: Any, start: Any, times: int = 1) -> Backbone:
        """The network that `start` makes, after a fine-tuning of so many times the epochs."""
        epochs = times * run.experiment.trainer.max_epochs  # type: ignore[operator]
        module = run.fit(stage, lambda: build({"compressed": start()}), epochs, select="last", validate=False)
        return module.backbone
