"""Training by labels, and by a teacher where there is one: of dense networks, and of those that were compressed."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.losses import Logits, distilled_cross_entropy, hard_distilled_cross_entropy, of_each
from lightning_vitc.training.module import CompressionModule, StepResult
from lightning_vitc.training.teacher import Teacher


@dataclass(frozen=True)
class Distillation:
    """How a teacher takes part in the loss.

    Attributes:
        kind: `hard` learns its answers by a distillation token, `soft` its probabilities.
        weight: its share.
        temperature: of soft distillation.
        kd_reduction: of soft distillation: over the images, or `numel`, also over the classes.
    """

    kind: Literal["hard", "soft"] = "hard"
    weight: float = 0.5
    temperature: float = 1.0
    kd_reduction: Literal["batchmean", "numel"] = "batchmean"


class Supervised(CompressionModule):
    """Cross-entropy; with a teacher, DeiT's hard distillation or a soft one.

    Where there is a distillation token, its head alone learns from the teacher, and the class head from the targets.

    Args:
        backbone: the network.
        optimizer: the recipe.
        teacher: the hard one is read only by a backbone with a distillation token.
        distillation: how it teaches.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None = None,
                 distillation: Distillation | None = None):  # fmt: skip
        super().__init__(backbone, optimizer, teacher)
        self.distillation = distillation or Distillation()
        if teacher is not None and self.distillation.kind == "hard" and not backbone.spec.distilled:
            raise UserError(
                f"method.distillation: hard needs a distillation token, which {backbone.spec.name} lacks; set soft"
            )

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """One forward pass."""
        logits = self.backbone(images)
        taught = None if self.teacher is None else self.teacher(images)
        return StepResult(of_each(logits, lambda one: self._loss(one, targets, taught)))

    def _loss(self, logits: Logits, targets: Tensor, taught: Tensor | None) -> Tensor:
        by = self.distillation
        if taught is not None and by.kind == "hard":
            return hard_distilled_cross_entropy(logits, targets, taught.argmax(-1), by.weight)
        return distilled_cross_entropy(logits, targets, taught, by.weight, by.temperature, by.kd_reduction)
