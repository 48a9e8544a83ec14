"""Dense: the uncompressed model, or plain narrower ones trained separately; teacher and baseline."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning_vitc.budget.plan import Plan, plan_of_choices
from lightning_vitc.data.features import FeatureData
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import Experiment, OptimizerConfig, bounded, is_directory_name
from lightning_vitc.training.probe import Probe
from lightning_vitc.training.supervised import Distillation, Supervised
from lightning_vitc.training.teacher import Teacher, must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for dense training."""

    freezes: ClassVar[bool] = True  # `model.frozen_blocks`

    widths: list[float] = field(default_factory=lambda: [1.0])  # each is trained on its own
    distillation: Literal["hard", "soft"] = "hard"  # hard needs a distillation token; soft learns its probabilities
    distillation_weight: float = bounded(0.5, ge=0, le=1)  # share of the teacher in the loss
    temperature: float = bounded(1.0, gt=0)  # of soft distillation
    kd_reduction: Literal["batchmean", "numel"] = "batchmean"  # of soft distillation; numel: also over classes
    probe_epochs: int = bounded(0, ge=0)  # first, of the classifier alone on cached features of a pretrained network
    probe_lr: float | None = bounded(None, gt=0)  # default: that of the section `optimizer`

    def validate(self, experiment: Any = None) -> None:
        """Rules between keys, and with the experiment's others; a violation is a ValueError naming the key."""
        if experiment is not None and experiment.teacher.train:
            raise ValueError("teacher.train: the method dense trains the dense model itself; leave it out")
        if not self.widths or not all(0 < width <= 1 for width in self.widths):
            raise ValueError(f"method.widths: {self.widths} must be ratios > 0 and <= 1")
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"method.widths: {self.widths} names a width twice")
        if self.probe_lr is not None and not self.probe_epochs:
            raise ValueError("method.probe_lr: has no effect without method.probe_epochs")
        if experiment is not None:
            self._must_have_weights(experiment)

    def _must_have_weights(self, experiment: Any) -> None:
        """Keys that build on a trained network; a dry run may do without."""
        model = experiment.model
        for key, value in ("model.frozen_blocks", model.frozen_blocks), ("method.probe_epochs", self.probe_epochs):
            if value and self.widths != [1.0]:
                raise ValueError(f"{key}: networks of other widths start from random weights; set method.widths=[1.0]")
            if value and not model.pretrained and not is_directory_name(model.name) and experiment.data.name != "fake":
                raise ValueError(f"{key}: needs a trained network; set model.pretrained, or a directory as model.name")


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
    def _started(cls, run: "Pipeline", width: Fraction, teacher: Teacher | None, probe: Probe | None) -> "Dense":
        backbone = run.backbone(width) if probe is None else probe.backbone.train()
        backbone.freeze(run.experiment.model.frozen_blocks)
        return cls(backbone, run.optimizer, teacher, run.arguments)

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """Every width that is trained."""
        teacher, keys = experiment.teacher, experiment.method
        if teacher.run is not None or teacher.model is not None:
            must_train_both_heads(spec, keys.distillation_weight, "method.distillation_weight")
        if experiment.model.frozen_blocks > spec.depth:
            raise UserError(
                f"model.frozen_blocks: {experiment.model.frozen_blocks} is more than the "
                f"{counted(spec.depth, 'block')} of {spec.name}"
            )
        if keys.probe_epochs and spec.drops_tokens:
            raise UserError(f"method.probe_epochs: {spec.name} has a classifier of another kind beside; leave it out")
        widths = {f"width_{width:g}": spec.at_width(width) for width in keys.widths}
        return plan_of_choices(widths, costs.macs)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """A training of the classifier, if asked for; then one a width."""
        teacher, probe = run.teacher(), _probed(run)
        for width in sorted(Fraction(str(width)) for width in run.arguments.widths):
            stage = "dense" if width == 1 else f"dense_{float(width):g}"
            dense = run.fit(stage, partial(cls._started, run, width, teacher, probe))
            run.add_row(stage, dense.backbone, None, width=float(width))
            if width == 1:
                run.dense_name = stage


def _probed(run: "Pipeline") -> Probe | None:
    """The network with a trained classifier, of the stage `probe`; its features are removed when that is finished."""
    keys: Arguments = run.arguments
    if not keys.probe_epochs:
        return None
    recipe = replace(run.optimizer, lr=keys.probe_lr or run.optimizer.lr, warmup_epochs=0.0)
    features = FeatureData(run.data, run.directory.stage("probe") / "features.safetensors")
    probe = run.fit("probe", lambda: Probe(run.backbone(), recipe), epochs=keys.probe_epochs, data=features)
    features.remove()
    return probe
