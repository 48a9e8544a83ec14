"""The few images that a network is compressed by, each process with its part of them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

SEEN_AT_ONCE = 32  # images


@dataclass(frozen=True)
class Calibration:
    """Batches of images [B, C, H, W], and whether other processes have others.

    Attributes:
        batches: of this process, by their numbers among all; what is drawn for a batch depends on its number alone.
        shared: whether sums are those of all processes.
    """

    batches: dict[int, Tensor]
    shared: bool = False

    @classmethod
    def of(cls, images: Tensor, size: int, rank: int = 0, count: int = 1) -> Self:
        """Every `count`-th batch of so many images, from the one of the number `rank` on."""
        batches = dict(enumerate(images.split(size)))
        mine = {number: batch for number, batch in batches.items() if number % count == rank}
        return cls(mine, shared=count > 1)

    def total(self, *sums: Tensor) -> None:
        """Add up what the processes have summed, in place; one after another, so that all have the same numbers."""
        for tensor in sums if self.shared else ():
            torch.distributed.all_reduce(tensor)
