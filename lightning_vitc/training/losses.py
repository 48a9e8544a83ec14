"""Losses the methods share."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["batchmean", "numel"]


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


def distilled_cross_entropy(
    logits: Tensor, targets: Tensor, taught: Tensor | None, share: float, temperature: float, reduction: Reduction
) -> Tensor:
    """(1 - a) CE + a T² KL(teacher || student), as UVC weighs them; plain CE without a teacher.

    Args:
        logits: of the student, [B, classes].
        targets: [B] indices, or [B, classes] probabilities.
        taught: logits of the teacher, [B, classes].
        share: a.
        temperature: T.
        reduction: `numel` divides the KL by the number of classes too, as UVC's released code does.
    """
    loss = cross_entropy(logits, targets)
    if taught is None:
        return loss
    divergence = distillation(logits, taught, temperature) / (logits.shape[-1] if reduction == "numel" else 1)
    return (1 - share) * loss + share * divergence
