"""Scala: one ViT that holds every width (Zhang et al., NeurIPS 2024).

Legend: s, l smallest and full width ratio, e granularity, m1 < m2 the two widths in between that a step
trains; a the share of hard distillation in the loss of the full network, c the weight of noise calibration.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from lightning_vitc.budget.plan import Plan, plan_of_choices
from lightning_vitc.latency.meter import latencies_for
from lightning_vitc.latency.widths import plan_of_measured
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.batch_statistics import batch_norms, calibrate, measured
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.elastic import Cut, ElasticViT
from lightning_vitc.networks.kept import Heads, Kept
from lightning_vitc.networks.modules.two_logits import TwoLogits
from lightning_vitc.networks.slicing import End, slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import Experiment, OptimizerConfig, bounded
from lightning_vitc.training.losses import (
    Logits,
    both_heads,
    cross_entropy,
    distillation,
    hard_distilled_cross_entropy,
    of_each,
)
from lightning_vitc.training.module import CompressionModule, StepResult, Variant
from lightning_vitc.training.teacher import Teacher, must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


RELEASED_EPS = 1e-5  # torch's own, to which the released code leaves its LayerNorms


@dataclass
class Arguments:
    """Keys of `method:` for Scala; a budget of latency says which width is exported."""

    takes_budget: ClassVar[bool] = True
    budget_keys: ClassVar[tuple[str, ...]] = ("latency_ms", "device", "batch_size")

    s: float = bounded(0.25, gt=0, lt=1)  # smallest width ratio
    l: float = bounded(1.0, gt=0, le=1)  # noqa: E741  largest width ratio, the paper's name
    granularity: float = bounded(0.0625, gt=0, lt=1)  # widths are s, s + granularity, ..., l
    # how attention is cut; released: official, with the orientation and the norm epsilon of the authors' code
    slice: Literal["per_head", "per_qkv", "official", "heads", "released"] = "per_head"
    isolated_activation: bool = True  # the smallest width uses the other end of every tensor
    orientation: Literal["paper", "official"] = "paper"  # paper: s trailing; official: s and l leading
    sampling: Literal["paper", "official_bins", "uniform"] = "paper"
    transfer: Literal["progressive", "full", "none"] = "progressive"  # who teaches the narrower widths
    noise_calibration: bool = True  # cross-entropy beside the distillation
    calibration_weight: float = bounded(1.0, gt=0)  # c
    hard_distillation: float = bounded(0.5, ge=0, le=1)  # a
    calibration_images: int = bounded(5120, gt=0)  # that a width's statistics of batch norms are measured on (US-Net)
    full_warmup_epochs: int = bounded(0, ge=0)  # epochs that train the full width only
    eval_widths: list[float] | None = None  # validated each epoch; default: .25/.5/.75/1 of the grid
    untrained_widths: list[float] = field(default_factory=list)  # also in the final table: does it interpolate?

    @property
    def rule(self) -> Any:
        """Of `slicing.slice_width`."""
        return "official" if self.slice == "released" else self.slice

    def grid(self) -> list[Fraction]:
        """Every width ratio, ascending, exact."""
        s, l, e = (Fraction(str(value)) for value in (self.s, self.l, self.granularity))  # noqa: E741
        return [s + number * e for number in range(int((l - s) / e) + 1)]

    def validate(self, experiment: Any = None) -> None:
        """Rules between keys, and with the experiment's others; a violation is a ValueError naming the key."""
        if experiment is not None:
            self._validate_schedule(experiment)
            eps = experiment.model.norm_eps
            if self.slice == "released" and eps not in (None, RELEASED_EPS):
                raise ValueError(f"model.norm_eps: {eps:g} contradicts method.slice=released, which means "
                                 f"{RELEASED_EPS:g}; leave it out, or set method.slice=official")  # fmt: skip
        s, l, e = (Fraction(str(value)) for value in (self.s, self.l, self.granularity))  # noqa: E741
        if s >= l:
            raise ValueError(f"method.s: {self.s:g} must be less than method.l = {self.l:g}")
        if ((l - s) / e).denominator != 1:
            raise ValueError(
                f"method.granularity: steps of {self.granularity:g} from s = {self.s:g} miss l = {self.l:g}; "
                f"(l - s) / granularity must be a whole number"
            )
        if self.eval_widths is not None and not self.eval_widths:
            raise ValueError("method.eval_widths: empty; name at least one width, or leave the key out")
        for width in self.eval_widths or []:
            if Fraction(str(width)) not in self.grid():
                raise ValueError(f"method.eval_widths: {width:g} is not a width of the grid {self._shown()}")
        for width in self.untrained_widths:
            if not self.s < width < self.l:
                raise ValueError(f"method.untrained_widths: {width:g} is not between s = {self.s:g} and l = {self.l:g}")
        if self.transfer == "none" and not self.noise_calibration:
            raise ValueError("method.noise_calibration: must be true with transfer=none, else widths learn nothing")

    def tested_widths(self) -> list[Fraction]:
        """The rows of the final table: the grid, and widths between it that were never trained."""
        return sorted({*self.grid(), *(Fraction(str(width)) for width in self.untrained_widths)})

    def _validate_schedule(self, experiment: Any) -> None:
        sampling = experiment.callbacks.get("width_sampling")
        if sampling is None:
            raise ValueError("callbacks.width_sampling: missing, scala needs it; add 'base: [scala]' to the experiment")
        if sampling.sampling != self.sampling:
            raise ValueError(
                f"callbacks.width_sampling.sampling: {sampling.sampling} contradicts method.sampling={self.sampling}; "
                "set method.sampling alone"
            )
        epochs = experiment.trainer.max_epochs
        if epochs is not None and self.full_warmup_epochs >= epochs:
            raise ValueError(
                f"method.full_warmup_epochs: {self.full_warmup_epochs} must be less than trainer.max_epochs={epochs}, "
                "or no narrow width is ever trained"
            )

    def validated_widths(self) -> list[Fraction]:
        """`eval_widths`, or those of a quarter, a half, three quarters and one that the grid has, and its ends."""
        grid = self.grid()
        if self.eval_widths is not None:
            return sorted(Fraction(str(width)) for width in self.eval_widths)
        quarters = {Fraction(number, 4) for number in (1, 2, 3, 4)}
        return sorted({width for width in grid if width in quarters} | {grid[0], grid[-1]})

    def _shown(self) -> str:
        return ", ".join(f"{float(width):g}" for width in self.grid())


class Scala(CompressionModule):
    """Trains every width of a grid at once; `widths` is the control that a callback sets before each step.

    Args:
        backbone: the full-width network.
        optimizer: the recipe.
        teacher: of the full network; read only by a backbone with a distillation token.
        arguments: the keys of `method:`.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None = None,
                 arguments: Arguments | None = None):  # fmt: skip
        self.arguments = arguments or Arguments()
        self.grid = self.arguments.grid()
        self._calibrated: dict[Fraction, Kept] = {}  # widths with statistics of their own, where batch norms want them
        super().__init__(backbone, optimizer, teacher)
        self.widths: Sequence[Fraction] = (self.grid[-1], self.grid[0])  # control: descending, the full one first
        backbone.distilled_training = backbone.spec.distilled
        if self.arguments.slice == "released":
            backbone.set_norm_eps(RELEASED_EPS)
        if teacher is not None and not backbone.spec.distilled:
            warnings.warn(f"teacher: ignored, {backbone.spec.name} has no distillation token", stacklevel=2)
        for width in self.arguments.tested_widths():
            self.kept(width)  # refuses a width that does not come out whole before any training

    def kept(self, width: Fraction, heads: Heads = "both") -> Kept | None:
        """The sub-network of a width (Isolated Activation, Section 3.2); `None` for all of the network."""
        if width == 1:
            return None
        return slice_width(self.backbone.spec, width, self.arguments.rule, self._end(width), heads)

    def evaluated(self, width: Fraction) -> Kept | None:
        """The sub-network of a width that predicts by the heads that were trained at it."""
        return self._calibrated.get(width) or self.kept(width, self.heads(width))

    def calibrate(self, widths: Sequence[Fraction], data: Any) -> None:
        """Measure the statistics of batch norms that these widths have, on training images without augmentation.

        Each process measures by itself, and all the same.
        """
        if not batch_norms(self.backbone):
            return
        spec = self.backbone.spec
        kept = {width: self.kept(width) or Kept.of(spec, spec, {}) for width in widths}
        networks = [compact(self.backbone, each) for each in kept.values()]
        calibrate(networks, data.spread_batches("train", self.arguments.calibration_images))
        for (width, each), network in zip(kept.items(), networks, strict=True):
            self._calibrated[width] = each.with_statistics(measured(network))

    def on_validation_epoch_start(self) -> None:
        """What is validated are the weights of now, or their average."""
        self.calibrate(self.arguments.validated_widths(), getattr(self.trainer, "datamodule", None))
        super().on_validation_epoch_start()

    def heads(self, width: Fraction) -> Heads:
        """Which heads a width trains: a narrower one that is taught, the class head by noise calibration alone."""
        keys, full = self.arguments, width == self.grid[-1]
        both = full or keys.transfer == "none" or keys.noise_calibration or not self.backbone.spec.distilled
        return "both" if both else "distillation"

    def _end(self, width: Fraction) -> End:
        if not self.arguments.isolated_activation:
            return "leading"
        keys, smallest = self.arguments, width == self.grid[0]
        if keys.orientation == "paper" and keys.slice != "released":
            return "trailing" if smallest else "leading"
        return "leading" if smallest or width == self.grid[-1] else "trailing"

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """Scale Coordination (Section 3.3): widths one after another, each taught by one before it."""
        labels = targets
        if self.teacher is not None and self.backbone.spec.distilled:
            labels = self.teacher(images).argmax(-1)  # before the student's activations pile up
        terms: dict[str, Tensor] = {}
        logits: list[Tensor] = []
        total = images.new_zeros(())
        for position, width in enumerate(self.widths):
            student = self.backbone(images, kept=self.kept(width))
            if position == 0:
                loss = of_each(student, lambda one: self._both_heads(one, targets, labels))
            else:
                narrow = partial(self._narrow_loss, teacher=self._teacher_of(logits), targets=targets)
                loss = of_each(student, narrow)
            logits.append(_teaching(student).detach())
            terms[f"{width_name(width)}/train_loss"] = loss.detach()
            total = total + loss.detach()
            if position < len(self.widths) - 1:
                self.accumulate(loss)
        terms["loss"] = total
        return StepResult(loss, terms)

    def _both_heads(self, student: Logits, targets: Tensor, labels: Tensor) -> Tensor:
        """(1 - a) CE(cls, target) + a CE(dist, argmax teacher): DeiT's hard distillation.

        Without a teacher the second head, which teaches the narrower widths, learns the targets too (ours).
        """
        if not isinstance(student, tuple):
            return cross_entropy(student, targets)
        return hard_distilled_cross_entropy(student, targets, labels, self.arguments.hard_distillation)

    def _narrow_loss(self, student: Logits, teacher: Tensor | None, targets: Tensor) -> Tensor:
        """KL(teacher || student) + c CE(cls, target) (Noise Calibration); untaught, both heads learn the targets."""
        c = self.arguments.calibration_weight
        if teacher is None:
            return c * self._both_heads(student, targets, targets)
        cls, dist = both_heads(student)
        loss = distillation(dist, teacher)
        return loss + c * cross_entropy(cls, targets) if self.arguments.noise_calibration else loss

    def _teacher_of(self, logits: list[Tensor]) -> Tensor | None:
        """Progressive Knowledge Transfer: the next wider network; `full`: the full one (US-Net)."""
        return {"progressive": logits[-1], "full": logits[0], "none": None}[self.arguments.transfer]

    def forward(self, images: Tensor, width: Fraction | None = None) -> Tensor:
        """Logits [B, classes] at a width of the grid, as it is evaluated; all of the network without one."""
        return self.backbone(images, kept=None if width is None else self.evaluated(width))

    def variants(self) -> list[Variant]:
        """The widths to validate."""
        return [self.variant(width) for width in self.arguments.validated_widths()]

    def variant(self, width: Fraction) -> Variant:
        """One width as a network to evaluate."""
        kept = self.evaluated(width)
        spec = self.backbone.spec if kept is None else kept.spec
        return Variant(width_name(width), spec, partial(self.forward, width=width))

    def elastic(self) -> ElasticViT:
        """All tested widths in one network for inference."""
        cuts = {
            width: Cut(self.arguments.rule, self._end(width), self.heads(width))
            for width in self.arguments.tested_widths()
        }
        statistics = {width: kept.statistics for width, kept in self._calibrated.items()}
        return ElasticViT(compact(self.backbone, self._calibrated.get(Fraction(1))), cuts, statistics).eval()

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """Every width of the final table; under a budget of latency they are measured."""
        keys, latency = experiment.method, experiment.budget.latency_ms
        must_train_both_heads(spec, keys.hard_distillation, "method.hard_distillation")
        widths = widths_of(spec, keys)
        if latency is None:
            return plan_of_choices(widths, costs.macs)
        return plan_of_measured(widths, latencies_for(experiment, spec, widths), latency)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Teacher, then every width in one training, then a row a width."""
        run.latency.measure(widths_of(run.dense_spec, run.arguments))
        teacher = run.teacher()
        scala = run.fit("scala", lambda: cls(run.backbone(), run.optimizer, teacher, run.arguments))
        scala.calibrate(scala.arguments.tested_widths(), run.data)
        for width in scala.arguments.tested_widths():
            run.add_row(width_name(width), scala.backbone, scala.evaluated(width), width=float(width))
        run.add_variant("elastic", scala.elastic)


def _teaching(logits: Logits | TwoLogits) -> Tensor:
    """Those of a distillation token, or of the classifier that predicts."""
    return logits.predicting if isinstance(logits, TwoLogits) else both_heads(logits)[1]


def widths_of(spec: ArchSpec, keys: Arguments) -> dict[str, ArchSpec]:
    """The networks of the final table by name."""
    return {width_name(width): slice_width(spec, width, keys.rule).spec for width in keys.tested_widths()}


def width_name(width: Fraction) -> str:
    """`width_0.50`: groups the curves of one width."""
    return f"width_{float(width):.4f}".rstrip("0").ljust(len("width_0.00"), "0")
