"""The compacted network with its winning gates, trained on: decisions are exact now, as they are when exported."""

from functools import cached_property
from typing import Any

from torch import Tensor

from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.training import GatedTraining


class GatedFinetuning(GatedTraining):
    """No noise, no search: the backbone's own gates decide, group by group in training."""

    def gate_logits(self, block: int, branch: int, pooled: Tensor) -> Tensor:
        """Of the block's own gate."""
        owner: Any = self.backbone.blocks[block]
        return (owner.gate2 if branch else owner.gate1)(pooled)

    def expected_cost(self, run: Tensor) -> Tensor:
        """Of the network as it is."""
        return self._costs.expected(run)

    @cached_property
    def _costs(self) -> DynamicCosts:
        return self.targets.dynamic_costs(self.backbone.spec)

    def softness(self) -> float:
        """The last temperature of the noisy training."""
        return self.arguments.finetune_temperature

    def own_rates(self) -> dict[str, float]:
        """Gates learn at a rate of their own."""
        named = [name for name, _ in self.named_parameters() if ".gate1." in name or ".gate2." in name]
        return dict.fromkeys(named, self.arguments.gate_lr)
