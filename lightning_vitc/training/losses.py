"""Losses the methods share."""

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.networks.modules.two_logits import TwoLogits

Reduction = Literal["batchmean", "numel"]
Logits = Tensor | tuple[Tensor, Tensor]  # [B, classes]; with a distillation token of the class and its head


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of [B, classes] against [B] indices or [B, classes] probabilities, in fp32."""
    return F.cross_entropy(logits.float(), targets)


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(teacher || student) at temperature T (Hinton et al., 2015), averaged over the batch.

    Args:
        student: logits [B, classes].
        teacher: logits [B, classes]; not differentiated.
        temperature: T.
    """
    target = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_probabilities, target, log_target=True, reduction="batchmean")


def both_heads(logits: Logits) -> tuple[Tensor, Tensor]:
    """Logits that learn the targets and logits that learn the teacher: the same, where there is one head."""
    return logits if isinstance(logits, tuple) else (logits, logits)


def of_each(logits: Any, loss: Callable[[Any], Tensor]) -> Tensor:
    """The loss of logits; of a network with an auxiliary classifier the mean of the losses of both."""
    return (loss(logits.predicting) + loss(logits.auxiliary)) / 2 if isinstance(logits, TwoLogits) else loss(logits)


def hard_distilled_cross_entropy(logits: Logits, targets: Tensor, labels: Tensor, share: float) -> Tensor:
    """(1 - a) CE(class head, targets) + a CE(distillation head, labels) (DeiT, Touvron et al., 2021, eq. 3).

    Args:
        logits: of the student.
        targets: [B] indices, or [B, classes] probabilities.
        labels: the same of the teacher: its decisions.
        share: a.
    """
    cls, dist = both_heads(logits)
    return (1 - share) * cross_entropy(cls, targets) + share * cross_entropy(dist, labels)


def distilled_cross_entropy(
    logits: Logits, targets: Tensor, taught: Tensor | None, share: float, temperature: float, reduction: Reduction
) -> Tensor:
    """(1 - a) CE + a T² KL(teacher || student), as UVC weighs them; plain CE without a teacher.

    Of two heads the class head learns the targets and the distillation head the teacher (DeiT, eq. 2, and UVC).

    Args:
        logits: of the student.
        targets: [B] indices, or [B, classes] probabilities.
        taught: logits of the teacher, [B, classes].
        share: a.
        temperature: T.
        reduction: `numel` divides the KL by the number of classes too, as UVC's released code does.
    """
    cls, dist = both_heads(logits)
    loss = cross_entropy(cls, targets)
    if taught is None:
        return loss
    divergence = distillation(dist, taught, temperature) / (dist.shape[-1] if reduction == "numel" else 1)
    return (1 - share) * loss + share * divergence
