"""What trainings with gates have in common: decisions of groups and of images, the price of running, its record.

L blocks, B images of a batch, D the embedding width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.dynamic.grouping import (
    GroupGates,
    generator_of,
    group_sizes,
    gumbel_noise,
    per_sample_count,
    per_sample_positions,
    units,
)
from lightning_vitc.dynamic.rates import RunRates
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.gates.networks import settle
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.losses import distilled_cross_entropy
from lightning_vitc.training.module import CompressionModule, StepResult, Variant
from lightning_vitc.training.teacher import Teacher


class GatedTraining(CompressionModule):
    """A backbone whose branches run by gates, trained on cross-entropy, distillation and the price of running.

    Args:
        backbone: the network.
        optimizer: the recipe.
        teacher: the dense network, frozen, or `None`.
        arguments: the keys of USDC.
        targets: what the network may cost.
        seed: of the noise and of random groups.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None, arguments: Any,
                 targets: DynamicTargets, seed: int = 0):  # fmt: skip
        self.arguments, self.targets, self.seed = arguments, targets, seed
        self.kd = arguments.distillation, arguments.temperature, arguments.kd_reduction
        self._micro = 0  # which part of a step's batch
        self._decided: GroupGates | None = None  # what the last validation batch decided
        super().__init__(backbone, optimizer, teacher)
        self.rates = RunRates(backbone.spec.num_classes, backbone.spec.depth)

    # What a training implements

    def gate_margin(self, block: int, branch: int, pooled: Tensor) -> Tensor:
        """By how much a gate's logit of running is the larger one, [B], for the mean normalized tokens [B, D]."""
        raise NotImplementedError

    def expected_cost(self, run: Tensor) -> Tensor:
        """Of one image where branches run at rates [L, 2], in what the budget counts; a scalar, differentiable."""
        raise NotImplementedError

    def rates_of(self, groups: GroupGates) -> Tensor:
        """How often branches run, [L, 2], differentiable: what L_res counts; here, what was decided."""
        return groups.mean_run(self.backbone.spec.depth)

    def per_sample_share(self) -> float:
        """Of the images of a batch, that decide by themselves and without noise, whatever the grouping."""
        return 0.0

    def softness(self) -> float:
        """Temperature of the soft gates, whose gradient the hard ones have."""
        raise NotImplementedError

    @property
    def gated_branches(self) -> bool:
        """Whether there are gates."""
        return True

    def weight_of_residual(self) -> float:
        """Of L_res in the loss."""
        return self.arguments.gamma

    def expected_target(self) -> Tensor | float:
        """The cost that L_res asks for now."""
        return self.targets.expected

    def resident(self) -> ArchSpec:
        """What is held in memory, with its gates."""
        return self.backbone.spec

    # The step

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """Loss = task + gamma L_res with L_res = ((E[cost] - target) / dense)² (Yuan et al.; the square is ours).

        The cost is in MACs as in the paper, or in time where the budget is a latency.
        """
        groups = self.groups(len(images), images.device)
        logits = self.backbone(images, gates=partial(self._decide, groups) if self.gated_branches else None)
        taught = None if self.teacher is None else self.teacher(images)
        task_loss = distilled_cross_entropy(logits, targets, taught, *self.kd)
        cost = self.expected_cost(mean_over_processes(self.rates_of(groups)))
        residual = ((cost - self.expected_target()) / self.targets.dense).square()
        terms = {"task_loss": task_loss, "residual": residual, "expected_ratio": cost / self.targets.dense}
        return StepResult(
            task_loss + self.weight_of_residual() * residual,
            {f"usdc/{name}": value.detach() for name, value in terms.items()},
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Which part of the step's batch follows."""
        self._micro = batch_idx % self.trainer.accumulate_grad_batches

    def after_step(self) -> None:
        """Statistics of the gates' batch norms follow the step."""
        settle(self)

    def groups(self, batch: int, device: torch.device) -> GroupGates:
        """Who decides together in this batch, and the noise of it."""
        if not self.gated_branches:
            return GroupGates([batch], None, device)
        rank, world_size = (0, 1) if self._trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        draw = partial(generator_of, self.seed, self.global_step, self._micro)
        first, share = self._micro * world_size * batch, self.per_sample_share()
        per_sample = per_sample_positions(first + rank * batch, batch, share)
        of_all = per_sample_count(first + world_size * batch, share) - per_sample_count(first, share)
        sizes = group_sizes(batch - len(per_sample), self.arguments.grouping, draw("groups"))
        noise = gumbel_noise(batch, self.backbone.spec.depth, draw("noise"), rank, world_size)
        return GroupGates(sizes, noise, device, per_sample, of_all / world_size)

    def _decide(self, groups: GroupGates, block: int, branch: int, pooled: Tensor) -> Tensor:
        with torch.autocast(pooled.device.type, enabled=False):  # the export decides in fp32 too
            margin = self.gate_margin(block, branch, pooled.float())
            return groups.decide(block, branch, margin, self.softness())

    # Validation: every image decides for itself, without noise

    def variants(self) -> list[Variant]:
        """The network as it would be exported."""
        return [Variant("usdc", self.backbone.spec, self.deciding)]

    def deciding(self, images: Tensor, network: Callable[..., Tensor] | None = None) -> Tensor:
        """Logits [B, classes] of a network (default: the backbone); what was decided is kept for `validation_step`."""
        self._decided = GroupGates([1] * len(images), None, images.device)
        gates = partial(self._decide, self._decided) if self.gated_branches else None
        return (network or self.backbone)(images, gates=gates)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count correct predictions, and what ran."""
        super().validation_step(batch, batch_idx)
        if self.gated_branches and self._decided is not None:
            depth = self.backbone.spec.depth
            always = torch.ones_like(next(iter(self._decided.run.values())))
            ran = torch.stack([self._decided.run.get(unit, always) for unit in units(depth)], dim=1)
            self.rates.update(ran.unflatten(1, (depth, 2)), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, the three costs and how often every branch ran."""
        super().on_validation_epoch_end()
        self._log_costs()
        if not self.gated_branches:
            return
        for number, (attn, mlp) in enumerate(self.run_rates().unbind()):
            self.log_dict({f"run_rate/attn_{number:02d}": attn, f"run_rate/mlp_{number:02d}": mlp})

    def run_rates(self) -> Tensor:
        """Of the validation images so far, [L, 2]; 1 where nothing is skipped."""
        if not self.gated_branches:
            return torch.ones(self.backbone.spec.depth, 2, device=self.device)
        return self.rates.compute()["all"].float()

    def _log_costs(self) -> None:
        """The expected cost and the worst one as shares of dense, and the size of the resident model in fp32."""
        rates, params = self.run_rates(), float(costs.params(self.resident()))
        ratios = {
            name: self.expected_cost(run) / self.targets.dense
            for name, run in (("expected", rates), ("worst", torch.ones_like(rates)))
        }
        self.log_dict({f"usdc/val_{name}_ratio": ratio for name, ratio in ratios.items()})
        self.log_dict({"usdc/val_params": params, "usdc/val_bytes": 4 * params})

    def on_validation_epoch_start(self) -> None:
        """Count anew; the last epoch's counts stay readable until then."""
        super().on_validation_epoch_start()
        self.rates.reset()


def mean_over_processes(run: Tensor) -> Tensor:
    """The mean of all processes with the gradient of this one's part: E[MACs] is that of the whole batch.

    DDP averages gradients, so that the step is the one that a single process with all images takes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return run
    whole = run.detach().clone()
    torch.distributed.all_reduce(whole)
    return run + (whole / torch.distributed.get_world_size() - run).detach()
