"""The compacted network with its winning gates, trained on: decisions are exact now, as they are when exported."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.grouping import GroupGates
from lightning_vitc.dynamic.training import GatedTraining

FREE = 0.005  # of dense, beyond the budget: moving the gates by little removes it
PRICE = 500.0  # points of accuracy for all of dense beyond that


class GatedFinetuning(GatedTraining):
    """No noise, no search: the backbone's own gates decide, group by group in training.

    Groups decide by the mean of their logits, so that what a training batch costs is not what its images would cost
    one by one, which is what the budget limits. So groups decide what runs, and L_res counts what every image would
    have run by its own logits; and of the epochs those count that kept to the budget in validation (both ours). Else
    much would be left to moving the gates at the end, which they were not trained for.
    """

    def gate_logits(self, block: int, branch: int, pooled: Tensor) -> Tensor:
        """Of the block's own gate."""
        owner: Any = self.backbone.blocks[block]
        return (owner.gate2 if branch else owner.gate1)(pooled)

    def rates_of(self, groups: GroupGates) -> Tensor:
        """Of images that decide alone."""
        return groups.mean_run_alone(self.backbone.spec.depth, self.softness())

    def expected_cost(self, run: Tensor) -> Tensor:
        """Of the network as it is."""
        return self._costs.expected(run)

    @cached_property
    def _costs(self) -> DynamicCosts:
        return self.targets.dynamic_costs(self.backbone.spec)

    def softness(self) -> float:
        """The last temperature of the noisy training."""
        return self.arguments.finetune_temperature

    def score(self, metrics: Mapping[str, Tensor]) -> Tensor | float:
        """What an epoch is worth: its accuracy, less what it costs beyond the budget."""
        if "usdc/val_expected_ratio" not in metrics:
            return math.nan
        beyond = metrics["usdc/val_expected_ratio"] - self.targets.ratio
        return metrics["val/top1"] - PRICE * (beyond - FREE).clamp_min(0)

    def own_rates(self) -> dict[str, float]:
        """Gates learn at a rate of their own."""
        named = [name for name, _ in self.named_parameters() if ".gate1." in name or ".gate2." in name]
        return dict.fromkeys(named, self.arguments.gate_lr)
