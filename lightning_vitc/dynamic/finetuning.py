"""The compacted network with its winning gates, trained on: decisions are exact now, as they are when exported."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.training import GatedTraining

GAIN = 0.5  # of what images cost beyond the budget, by which the aim moves after each validation
ROOM = 0.2  # of dense, by which the aim may leave the budget


class GatedFinetuning(GatedTraining):
    """No noise, no search: the backbone's own gates decide, group by group in training.

    Groups decide by the mean of their logits, so that what a training batch costs is not what its images would cost
    one by one, which is what the budget limits. After each validation, where images decide alone, L_res aims as much
    lower or higher as they were beyond the budget; and of the epochs those count that kept to it (both ours). Else all
    of it would be left to moving the gates at the end, which they were not trained for.
    """

    aim: Tensor

    def __init__(self, *arguments: Any, **keys: Any):
        super().__init__(*arguments, **keys)
        self.register_buffer("aim", torch.tensor(float(self.targets.expected)))  # of L_res

    def gate_logits(self, block: int, branch: int, pooled: Tensor) -> Tensor:
        """Of the block's own gate."""
        owner: Any = self.backbone.blocks[block]
        return (owner.gate2 if branch else owner.gate1)(pooled)

    def expected_cost(self, run: Tensor) -> Tensor:
        """Of the network as it is."""
        return self._costs.expected(run)

    def expected_target(self) -> Tensor:
        """What L_res aims at."""
        return self.aim

    @cached_property
    def _costs(self) -> DynamicCosts:
        return self.targets.dynamic_costs(self.backbone.spec)

    def softness(self) -> float:
        """The last temperature of the noisy training."""
        return self.arguments.finetune_temperature

    def on_validation_epoch_end(self) -> None:
        """Log, and correct the aim."""
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.correct(self.run_rates())
            self.log("usdc/aim_ratio", self.aim / self.targets.dense)

    def score(self, metrics: Mapping[str, Tensor]) -> Tensor | float:
        """Accuracy of an epoch within the budget; one beyond it counts less than those, the more the further it is."""
        if "usdc/val_expected_ratio" not in metrics:
            return math.nan
        beyond = metrics["usdc/val_expected_ratio"] - self.targets.ratio
        return metrics["val/top1"] if beyond <= 0 else -beyond

    def correct(self, rates: Tensor) -> None:
        """Move the aim by what images that run branches at `rates` [L, 2] cost beyond the budget."""
        budget, room = self.targets.expected, ROOM * self.targets.dense
        self.aim.sub_(GAIN * (self.expected_cost(rates) - budget)).clamp_(budget - room, budget + room)

    def own_rates(self) -> dict[str, float]:
        """Gates learn at a rate of their own."""
        named = [name for name, _ in self.named_parameters() if ".gate1." in name or ".gate2." in name]
        return dict.fromkeys(named, self.arguments.gate_lr)
