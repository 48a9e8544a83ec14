"""The compacted network with its winning gates, trained on until it decides as it will when it is exported."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.dynamic.grouping import GroupGates
from lightning_vitc.dynamic.training import GatedTraining

FREE = 0.005  # of dense, beyond the budget: moving the gates by little removes it
PRICE = 500.0  # points of accuracy for all of dense beyond that


class GatedFinetuning(GatedTraining):
    """No search: the backbone's own gates decide, for a share of the images as they will when exported.

    In groups, which decide by the mean of their logits and with noise, no image sees just what it will run in the end;
    trained by them alone the network loses accuracy and runs more than L_res has counted. So a share of every batch
    decides image by image without noise, and L_res counts those; the others decide in groups as before, whose noise
    keeps gates off the edge, where the next step would turn a branch over for all images. And an epoch is worth less
    the further it is beyond the budget in validation. (All ours.)
    """

    branches: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        costs = self.targets.dynamic_costs(self.backbone.spec)
        self.fixed = costs.fixed
        self.register_buffer("branches", torch.tensor(costs.branches, dtype=torch.float), persistent=False)

    def gate_margin(self, block: int, branch: int, pooled: Tensor) -> Tensor:
        """Of the block's own gate."""
        owner: Any = self.backbone.blocks[block]
        skip, run = (owner.gate2 if branch else owner.gate1)(pooled).unbind(-1)
        return run - skip

    def per_sample_share(self) -> float:
        """`method.finetune_per_sample`."""
        return self.arguments.finetune_per_sample

    def rates_of(self, groups: GroupGates) -> Tensor:
        """Of images that decide by themselves; of all as if they did, where none does."""
        return groups.mean_run_per_sample(self.backbone.spec.depth, self.softness())

    def expected_cost(self, run: Tensor) -> Tensor:
        """Of the network as it is."""
        return self.fixed + (run * self.branches).sum((-1, -2))

    def softness(self) -> float:
        """`method.finetune_temperature`, all the time."""
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
