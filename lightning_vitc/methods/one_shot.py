"""One-shot pruning: the same share of heads and channels leaves every block at once; a baseline for UVC and USDC."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks, check_minima, uniform
from lightning_vitc.budget.plan import Plan, Reachable
from lightning_vitc.budget.projection import rounded_up
from lightning_vitc.budget.prunable import energies
from lightning_vitc.budget.target import target_of
from lightning_vitc.budget.unit_costs import UnitCosts, removed
from lightning_vitc.errors import UserError
from lightning_vitc.latency.meter import table_for
from lightning_vitc.methods.dense import Dense
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.post_training import decided_masks, post_train, teacher_of
from lightning_vitc.schema import BudgetConfig, Experiment, PostTrainingArguments, must_be_trained
from lightning_vitc.training.teacher import must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments(PostTrainingArguments):
    """Keys of `method:` for one-shot pruning."""

    criterion: Literal["magnitude", "random"] = "magnitude"  # what leaves a block: the smallest norms, or any

    def validate(self, experiment: Any = None) -> None:
        """Rules with the experiment's other keys; a violation is a ValueError naming the key."""
        if experiment is not None:
            must_be_trained(experiment)


class OneShot(Dense):
    """Decides once on the dense weights, then trains what is left as the budgeted methods do."""

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """Heads and channels in equal numbers in every block."""
        budget = experiment.budget
        check_minima(budget.min_keep, spec)
        if experiment.method.distillation:
            must_train_both_heads(spec, experiment.method.distillation, "method.distillation")
        target = target_of(budget, spec, "uvc", table_for(experiment, spec))
        costs = target.unit_costs(spec)
        _, mlp = uniform(spec)
        size = budget.round_to or 1  # of all blocks at once: a larger default would miss the budget by far
        channels = min(mlp.width, rounded_up(budget.min_keep.channels, size))
        least = _total(costs, spec, budget.min_keep.heads, channels)
        details: dict[str, int] = {}
        if least <= target.amount <= costs.dense:
            details = dict(zip(("heads", "channels"), uniform_size(spec, costs, target.amount, budget), strict=True))
        reachable = Reachable(least, costs.dense, spec.depth * costs.channel * size)
        return Plan(target.quantity, target.amount, reachable, details, dense=target.measured_dense)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Dense teacher, cut, post-training, rows."""
        budget, keys = run.experiment.budget, run.arguments
        dense = run.start()
        teacher = teacher_of(run, dense)
        target = target_of(budget, dense.spec, "uvc", run.latency.table())
        costs, seed = target.unit_costs(dense.spec), run.experiment.seed

        def decide(limit: int) -> Masks:
            return cut(dense, keys.criterion, *uniform_size(dense.spec, costs, limit, budget), seed=seed)

        masks = decided_masks(run, dense.spec, target, decide)
        final, sources = post_train(run, dense, masks, teacher)
        run.add_row(keys.criterion, final, None, sources, **removed(masks, costs))


def uniform_size(spec: ArchSpec, costs: UnitCosts, limit: int, budget: BudgetConfig) -> tuple[int, int]:
    """Heads and channels a block within a budget, shrunk alike: the largest network whose shares differ least.

    Args:
        spec: the dense network.
        costs: of its pieces.
        limit: the budget.
        budget: minima, and what channels are a multiple of.

    Raises:
        UserError: where no number of heads leaves enough channels.
    """
    attn, mlp = uniform(spec)
    size, found = budget.round_to or 1, []
    for heads in range(budget.min_keep.heads, attn.groups + 1):
        room = (limit - _total(costs, spec, heads, 0)) // (spec.depth * costs.channel)
        channels = min(mlp.width, room) // size * size
        if channels >= budget.min_keep.channels:
            found.append((abs(heads / attn.groups - channels / mlp.width), heads, channels))
    if not found:
        raise UserError(
            f"budget.round_to: {size} and budget.min_keep leave no number of heads and channels within "
            f"{limit:,}; lower them"
        )
    return min(found)[1:]


def cut(network: Backbone, criterion: str, heads: int, channels: int, seed: int) -> Masks:
    """Keep so many heads and channels of every block: those of the largest norms, or random ones."""
    masks, (dims, energy) = Masks.full(network.spec), energies(network)
    head_energy = dims.sum(-1)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        head_energy, energy = (torch.rand(e.shape, generator=generator) for e in (head_energy, energy))
    masks.dims &= _largest(head_energy, heads)[..., None]
    masks.channels &= _largest(energy, channels)
    return masks


def _largest(energy: Tensor, count: int) -> Tensor:
    kept = torch.zeros(energy.shape, dtype=torch.bool)
    return kept.scatter_(-1, energy.cpu().topk(count).indices, True)


def _total(costs: UnitCosts, spec: ArchSpec, heads: int, channels: int) -> int:
    attn, _ = uniform(spec)
    block = costs.attn + heads * (costs.head + attn.query * costs.dim) + costs.mlp + channels * costs.channel
    return costs.fixed + spec.depth * block
