"""Losses the methods share."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of [B, classes] against [B] indices or [B, classes] probabilities, in fp32."""
    return F.cross_entropy(logits.float(), targets)


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) at temperature 1, averaged over the batch; the teacher is not differentiated.

    Args:
        student: logits [B, classes].
        teacher: logits [B, classes].
    """
    target = F.log_softmax(teacher.detach().float(), dim=-1)
    return F.kl_div(F.log_softmax(student.float(), dim=-1), target, log_target=True, reduction="batchmean")
