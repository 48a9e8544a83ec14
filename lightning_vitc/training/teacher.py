"""A frozen network that teaches."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.spec import ArchSpec


class Teacher:
    """Holds a network outside of the student's modules: not trained, averaged, saved or wrapped by DDP."""

    def __init__(self, network: nn.Module, num_classes: int):
        self.network = network.eval().requires_grad_(False)
        self.num_classes = num_classes

    def must_match(self, student: ArchSpec) -> None:
        """Refuse a student with other classes or, where the teacher's are known, of other images.

        Raises:
            UserError: naming both.
        """
        if self.num_classes != student.num_classes:
            classes = counted(self.num_classes, "class")
            raise UserError(f"teacher: it has {classes}, the student {student.num_classes}; they must agree")
        own = getattr(self.network, "spec", None)  # only networks of this library have one
        if own is not None:
            must_see_alike(own, student)

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.network.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of [B, C, H, W], without a graph."""
        return self.network(images)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        return self  # an averaged copy of the student (EMA) shares its teacher


def must_train_both_heads(student: ArchSpec, share: float, key: str) -> None:
    """Refuse a share of the teacher that leaves one of two heads untrained: predictions average both.

    Raises:
        UserError: naming the key.
    """
    if student.distilled and share in (0, 1):
        head = "class" if share else "distillation"
        raise UserError(
            f"{key}: {share:g} trains no {head} head of {student.name}, which predicts by the average of both; "
            "it must be > 0 and < 1"
        )


def must_see_alike(teacher: ArchSpec, student: ArchSpec) -> None:
    """Refuse a teacher of other images.

    Raises:
        UserError: naming both.
    """
    if _images(teacher) != _images(student):
        raise UserError(
            f"teacher: it sees images of {_images(teacher)}, the student {_images(student)}; they must agree"
        )


def _images(spec: ArchSpec) -> str:
    return " x ".join(map(str, (spec.in_chans, *spec.img_size)))
