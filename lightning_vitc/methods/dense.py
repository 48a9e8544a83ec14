"""Dense: the uncompressed model, or plain narrower ones trained separately; teacher and baseline."""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lightning_vitc.budget.plan import Plan, plan_of_choices
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import Experiment, OptimizerConfig, bounded
from lightning_vitc.training.supervised import Distillation, Supervised
from lightning_vitc.training.teacher import Teacher, must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for dense training."""

    widths: list[float] = field(default_factory=lambda: [1.0])  # each is trained on its own
    distillation: Literal["hard", "soft"] = "hard"  # hard needs a distillation token; soft learns its probabilities
    distillation_weight: float = bounded(0.5, ge=0, le=1)  # share of the teacher in the loss
    temperature: float = bounded(1.0, gt=0)  # of soft distillation
    kd_reduction: Literal["batchmean", "numel"] = "batchmean"  # of soft distillation; numel: also over classes

    def validate(self, experiment: Any = None) -> None:
        """Rules between keys, and with the experiment's others; a violation is a ValueError naming the key."""
        if experiment is not None and experiment.teacher.train:
            raise ValueError("teacher.train: the method dense trains the dense model itself; leave it out")
        if not self.widths or not all(0 < width <= 1 for width in self.widths):
            raise ValueError(f"method.widths: {self.widths} must be ratios > 0 and <= 1")
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"method.widths: {self.widths} names a width twice")


class Dense(Supervised):
    """Trained by labels, and by the teacher where there is one.

    Args:
        backbone: the network.
        optimizer: the recipe.
        teacher: the hard one is read only by a backbone with a distillation token.
        arguments: the keys of `method:`.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None = None,
                 arguments: Arguments | None = None):  # fmt: skip
        keys = arguments or Arguments()
        taught = Distillation(keys.distillation, keys.distillation_weight, keys.temperature, keys.kd_reduction)
        super().__init__(backbone, optimizer, teacher, taught)

    @classmethod
    def _at_width(cls, run: "Pipeline", width: Fraction, teacher: Teacher | None) -> "Dense":
        return cls(run.backbone(width), run.optimizer, teacher, run.arguments)

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """Every width that is trained."""
        teacher, keys = experiment.teacher, experiment.method
        if teacher.run is not None or teacher.model is not None:
            must_train_both_heads(spec, keys.distillation_weight, "method.distillation_weight")
        widths = {f"width_{width:g}": spec.at_width(width) for width in keys.widths}
        return plan_of_choices(widths, costs.macs)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """One training a width."""
        teacher = run.teacher()
        for width in sorted(Fraction(str(width)) for width in run.arguments.widths):
            stage = "dense" if width == 1 else f"dense_{float(width):g}"
            dense = run.fit(stage, partial(cls._at_width, run, width, teacher))
            run.add_row(stage, dense.backbone, None, width=float(width))
            if width == 1:
                run.dense_name = stage
