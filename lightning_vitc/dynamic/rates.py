"""How often the branches of a network run, by block and by class of the images."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RunRates(Metric):
    """Counts decisions, exactly for any batch size and number of processes.

    Args:
        num_classes: of the images.
        depth: L, blocks.
    """

    ran: Tensor
    images: Tensor

    def __init__(self, num_classes: int, depth: int):
        super().__init__()
        self.add_state("ran", torch.zeros(num_classes, depth, 2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, ran: Tensor, targets: Tensor) -> None:
        """Add images.

        Args:
            ran: whether attention and MLP of every block ran, [B, L, 2], of 0 and 1.
            targets: [B] class indices.
        """
        self.ran.index_add_(0, targets, ran.long())
        self.images.index_add_(0, targets, torch.ones_like(targets))

    def compute(self) -> dict[str, Tensor]:
        """Rates: `all` [L, 2], and `by_class` [classes, L, 2], not a number for a class without images."""
        rates: dict[str, Any] = {"all": self.ran.sum(0) / self.images.sum()}
        return rates | {"by_class": self.ran / self.images[:, None, None]}
