"""Compensate: prunes without training: ranked on a few unlabeled images, what goes is folded into what stays.

Legend: a ranking of value dimensions, hidden units and blocks (`compensation.ranking`) serves every budget
(`compensation.deciding`); the weights of what is left are solved for layer by layer (`compensation.in_order`), or, of a
network that switches its budget, from statistics of the dense one (`compensation.elastic`).
"""

from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from lightning_vitc.budget.masks import Masks, check_minima
from lightning_vitc.budget.plan import Plan
from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.budget.reachable import multiples
from lightning_vitc.budget.sketch import sketch_of
from lightning_vitc.budget.target import Target, target_of
from lightning_vitc.budget.unit_costs import removed
from lightning_vitc.compensation.calibration import SEEN_AT_ONCE, Calibration
from lightning_vitc.compensation.deciding import decide, reachable
from lightning_vitc.compensation.elastic import CompensatedViT, Settings
from lightning_vitc.compensation.in_order import compensated
from lightning_vitc.compensation.ranking import Ranking, rank
from lightning_vitc.compensation.statistics import Statistics, measure, must_be_storable
from lightning_vitc.few_shot.feature_matching import FeatureMatching, original_tokens
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import is_rear
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.post_training import decided_masks
from lightning_vitc.schema import Experiment, bounded, must_be_trained, must_keep_precision, must_read_no_label

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for pruning without training."""

    takes_budget: ClassVar[bool] = True

    criterion: Literal["energy", "variance", "sensitivity"] = "sensitivity"  # what the ranking goes by
    fold: Literal["regression", "mean", "none"] = "regression"  # of what goes into what stays
    ridge: float = bounded(1e-3, gt=0)  # of the regression, in shares of the mean variance of a piece that stays
    skip: Literal["block", "none"] = "block"  # whether whole blocks may go
    elastic: bool = True  # store what `vitc export --variant elastic` needs to switch the budget
    finetune_epochs: int = bounded(0, ge=0)  # of training on the same images to give the dense network's features

    def validate(self, experiment: Any = None) -> None:
        """Rules with the experiment's other keys; a violation is a ValueError naming the key."""
        if experiment is None:
            return
        must_be_trained(experiment)
        must_keep_precision(experiment, "weights that {} solves for")
        must_read_no_label(experiment)
        if self.finetune_epochs and experiment.optimizer.warmup_epochs > self.finetune_epochs:
            raise ValueError(
                f"optimizer.warmup_epochs: {experiment.optimizer.warmup_epochs} is more than "
                f"method.finetune_epochs={self.finetune_epochs}"
            )
        if self.skip == "none" and experiment.budget.min_keep.blocks is not None:
            raise ValueError("budget.min_keep.blocks: has no effect with method.skip=none; leave it out")


class Compensate(FeatureMatching):
    """What may follow: the compensated network learns to give the dense one's features, where `finetune_epochs` say so.

    All else happens between trainings, see `pipeline`.
    """

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """From what the minima leave of the blocks that have to stay to the dense network."""
        keys, budget = experiment.method, experiment.budget
        check_minima(budget.min_keep, spec)
        if keys.elastic:
            must_be_storable(spec)
        target = target_of(budget, spec, "uvc", table_for(experiment, spec))
        costs = target.unit_costs(spec)
        details: dict[str, Any] = {**multiples(spec, budget), "min_keep": vars(budget.min_keep)}
        sketch = partial(sketch_of, spec, costs, target.amount, budget, None, True)
        reached = reachable(spec, costs, budget, target, keys.skip)
        return Plan(target.quantity, target.amount, reached, details, dense=target.measured_dense, sketch=sketch)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """A dense network, a ranking, the decision, weights in closed form, a row; none of it by steps of training."""
        keys, budget = run.arguments, run.experiment.budget
        dense = run.start(by_features=True)
        work = Work(run, dense)
        ranking = Ranking(**run.computed("ranking", work.ranking))
        target = target_of(budget, dense.spec, "uvc", run.latency.table())
        costs = target.unit_costs(dense.spec)
        masks = decided_masks(
            run, dense.spec, target, lambda limit: decide(ranking, dense.spec, costs, limit, budget, keys.skip)
        )
        small = run.compacted(dense, kept := kept_of(dense.spec, masks))
        small.load_state_dict(run.computed("compensated", partial(work.weights, masks)))
        if keys.finetune_epochs:
            small = cls._finetuned(run, small, dense)
        run.add_row("compensate", small, None, kept.sources, **removed(masks, costs))
        if keys.elastic:
            statistics = Statistics.of_tensors(run.computed("statistics", work.statistics))
            how = _settings(run, target)
            run.add_variant("elastic", lambda: CompensatedViT(compact(dense, None), ranking, statistics, how).eval())

    @classmethod
    def _finetuned(cls, run: "Pipeline", small: Backbone, dense: Backbone) -> Backbone:
        def build() -> Compensate:
            small.train_only(lambda name: not is_rear(name))
            return cls(
                {"compensated": small}, run.optimizer, original_tokens(deepcopy(dense)), seed=run.experiment.seed
            )

        return run.fit("finetune", build, run.arguments.finetune_epochs, select="last", validate=False).backbone


class Work:
    """What is computed of the images, by all processes together, each with its share of the batches."""

    def __init__(self, run: "Pipeline", dense: Backbone):
        self.run, self.dense, self.keys = run, dense, run.arguments

    def ranking(self) -> dict[str, Tensor]:
        """The importances."""
        return vars(rank(self._moved(), self._images(), self.keys.criterion, self.run.experiment.seed))

    def weights(self, masks: Masks) -> dict[str, Tensor]:
        """Of what is left."""
        small = compensated(self._moved(), masks, self._images(), self.keys.fold, self.keys.ridge)
        return small.cpu().state_dict()

    def statistics(self) -> dict[str, Tensor]:
        """For the budgets to come."""
        return measure(self._moved(), self._images()).tensors()

    def _moved(self) -> Backbone:
        return deepcopy(self.dense).to(self.run.processes.device).eval()

    def _images(self) -> Calibration:
        processes, images = self.run.processes, self.run.data.images_of("train")
        return Calibration.of(images, SEEN_AT_ONCE, processes.rank, processes.count)


def _settings(run: "Pipeline", target: Target) -> Settings:
    """A budget of latency is measured, which no file can: its elastic network has one of MACs."""
    budget, keys = run.experiment.budget, run.arguments
    quantity = "params" if target.quantity == "params" else "macs"
    return Settings(
        quantity, budget.convention, budget.round_to, asdict(budget.min_keep), keys.skip, keys.fold, keys.ridge
    )
