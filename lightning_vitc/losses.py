"""Losses the methods share."""

import torch.nn.functional as F
from torch import Tensor


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
