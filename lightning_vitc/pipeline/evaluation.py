"""Accuracy on a split, exact for any batch size and number of processes."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_vitc.training.module import accuracies

Accuracy = dict[str, float]  # top1, top5 in percent


class Evaluation(LightningModule):
    """Runs several networks over the same images.

    Args:
        networks: by name; each maps images [B, C, H, W] to logits [B, classes].
        num_classes: of all of them.

    Attributes:
        accuracy: by name, after the test.
        images: how many were seen, by all processes.
        left_out: images of the split that could not be used (`data.on_error=skip`) and count in no accuracy.
    """

    def __init__(self, networks: Mapping[str, nn.Module], num_classes: int):
        super().__init__()
        self.names = list(networks)
        self.networks = nn.ModuleList(networks.values())
        self.counters = nn.ModuleList(accuracies(num_classes) for _ in self.names)
        self.accuracy: dict[str, Accuracy] = {}
        self.images = self.left_out = 0

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count."""
        images, targets = batch
        self.images += len(targets)
        for network, counter in zip(self.networks, self.counters, strict=True):
            counter.update(network(images), targets)  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        """Sum up over processes."""
        for name, counter in zip(self.names, self.counters, strict=True):
            self.accuracy[name] = {key: round(100 * float(value), 4) for key, value in counter.compute().items()}  # type: ignore[operator]
        unusable = len(getattr(self.trainer.test_dataloaders, "unusable", ()))
        own = torch.tensor([self.images, unusable], device=self.device)
        seen: Any = self.trainer.strategy.reduce(own, reduce_op="sum")
        self.images, self.left_out = seen.tolist()


def evaluate(trainer: Trainer, networks: Mapping[str, nn.Module], num_classes: int, loader: Any) -> Evaluation:
    """The evaluation of every network over the loader, or over the test split of a data module."""
    evaluation = Evaluation(networks, num_classes)
    trainer.test(evaluation, loader, verbose=False)
    return evaluation


def near_chance(top1: float, num_classes: int) -> bool:
    """Whether an accuracy, in percent, is hardly better than guessing among so many classes.

    That is a tenth of the way from chance to 100 %, or twice chance (at least 3 %) where that is less.
    """
    chance = 100 / num_classes
    return top1 <= min(chance + (100 - chance) / 10, max(2 * chance, 3.0))
