"""What the gates of a network let run, over a split: rates by block and class, costs, and the extreme images."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.rates import RunRates
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.gates.skipping import noting_decisions

SHOWN = 24  # cheapest and dearest images in the picture


class RateEvaluation(LightningModule):
    """Runs a network with gates over images and notes what ran, for which class, and the extreme images.

    Attributes:
        gated: the branches with gates, (block, branch), in the order in which they decide.
        rates: of `RunRates.compute`, after the test.
        top1: in percent, after the test.
        extremes: the cheapest and the dearest images, [<= SHOWN, C, H, W] each, and their MACs.
    """

    def __init__(self, network: Backbone, targets: DynamicTargets):
        super().__init__()
        self.network, self.costs = network, DynamicCosts.of(network.spec)
        self.budgeted = targets.dynamic_costs(network.spec)
        self.gated = [(block, branch) for block, branch, one in network.spec.branches() if one.gate]
        self.counts = RunRates(network.spec.num_classes, network.spec.depth)
        self.correct = MulticlassAccuracy(network.spec.num_classes, average="micro")
        self.rates: dict[str, Tensor] = {}
        self.extremes: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self) -> None:
        """Forget another test."""
        self.extremes = []
        self.counts.reset()
        self.correct.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count, and keep the extreme images."""
        images, targets = batch
        with noting_decisions(self.network) as decisions:
            self.correct.update(self.network(images), targets)
        ran = decisions[0].new_ones(len(images), self.network.spec.depth, 2)
        for (block, branch), decided in zip(self.gated, decisions, strict=True):
            ran[:, block, branch] = decided
        self.counts.update(ran, targets)
        macs = self.costs.expected(ran.float())
        before = self.extremes or [(images[:0], macs[:0])] * 2
        self.extremes = [
            _most(torch.cat([kept, images]), torch.cat([cost, macs]), largest)
            for (kept, cost), largest in zip(before, (False, True), strict=True)
        ]

    def on_test_epoch_end(self) -> None:
        """Sum up over processes."""
        self.rates = {name: value.double().cpu() for name, value in self.counts.compute().items()}
        self.top1 = round(100 * float(self.correct.compute()), 4)
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather([_filled(*most) for most in self.extremes])
            self.extremes = [
                _most(images[~macs.isnan()], macs[~macs.isnan()], largest)
                for (images, macs), largest in zip(gathered, (False, True), strict=True)
            ]
        self.extremes = [(images.cpu(), macs.cpu()) for images, macs in self.extremes]

    @property
    def expected(self) -> float:
        """MACs of the mean image."""
        return float(self.costs.expected(self.rates["all"]))

    @property
    def spent(self) -> float:
        """The same in what the budget counts."""
        return float(self.budgeted.expected(self.rates["all"]))


def _filled(images: Tensor, macs: Tensor) -> tuple[Tensor, Tensor]:
    """As many on every process; an image that is none costs no number."""
    missing = SHOWN - len(macs)
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(macs, (0, missing), value=torch.nan)


def _most(images: Tensor, macs: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    top = macs.topk(min(SHOWN, len(macs)), largest=largest).indices
    return images[top], macs[top]
