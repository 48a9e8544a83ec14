"""One-shot pruning: the same share of heads and channels leaves every block at once; a baseline for UVC and USDC."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks, check_minima
from lightning_vitc.budget.plan import Plan, Reachable
from lightning_vitc.budget.projection import rounded_up
from lightning_vitc.budget.prunable import energies
from lightning_vitc.budget.reachable import multiples
from lightning_vitc.budget.stacks import Stack, stacks_of
from lightning_vitc.budget.target import target_of
from lightning_vitc.budget.unit_costs import UnitCosts, removed
from lightning_vitc.errors import UserError
from lightning_vitc.latency.meter import table_for
from lightning_vitc.methods.dense import Dense
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.post_training import decided_masks, post_train, teacher_of
from lightning_vitc.schema import BudgetConfig, Experiment, PostTrainingArguments, bounded, must_be_trained
from lightning_vitc.training.teacher import must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

MULTIPLE = 1  # by default: channels leave all blocks at once, and eight of each would miss the budget by far


@dataclass
class Arguments(PostTrainingArguments):
    """Keys of `method:` for one-shot pruning."""

    criterion: Literal["magnitude", "random"] = "magnitude"  # what leaves a block: the smallest norms, or any
    start: Literal["cut", "compensate"] = "cut"  # of the post-training; compensate folds in what is cut off (ours)
    start_images: int = bounded(256, gt=0)  # training images, unaugmented, that compensate looks at

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
        if any(stack.attn is None for stack in stacks_of(spec)):
            raise UserError(f"model.name: {spec.name} has no attention, whose heads go in step with channels here")
        check_minima(budget.min_keep, spec)
        if experiment.method.distillation:
            must_train_both_heads(spec, experiment.method.distillation, "method.distillation")
        target = target_of(budget, spec, "uvc", table_for(experiment, spec))
        costs = target.unit_costs(spec)
        size = budget.round_to or MULTIPLE
        channels = min(costs.stacks[0].stack.channels, rounded_up(budget.min_keep.channels, size))
        least = _total(costs, budget.min_keep.heads, channels)
        details: dict[str, int | str] = {}
        if least <= target.amount <= costs.dense:
            details = dict(zip(("heads", "channels"), uniform_size(costs, target.amount, budget), strict=True))
        details |= multiples(spec, replace(budget, round_to=size))
        reachable = Reachable(least, costs.dense, _channel(costs) * size)
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
            return cut(dense, keys.criterion, *uniform_size(costs, limit, budget), seed=seed)

        masks = decided_masks(run, dense.spec, target, decide)
        final, sources = post_train(run, dense, masks, teacher)
        run.add_row(keys.criterion, final, None, sources, **removed(masks, costs))


def uniform_size(costs: UnitCosts, limit: int, budget: BudgetConfig) -> tuple[int, int]:
    """Heads and channels a block within a budget, shrunk alike: the largest network whose shares differ least.

    Of the first stage, where there are several: the others keep the same shares.

    Args:
        costs: of the pieces of the dense network.
        limit: the budget.
        budget: minima, and what channels are a multiple of.

    Raises:
        UserError: where no number of heads leaves enough channels.
    """
    first, size, found = costs.stacks[0].stack, budget.round_to or MULTIPLE, []
    for heads in range(budget.min_keep.heads, first.heads + 1):
        room = (limit - _total(costs, heads, 0)) // _channel(costs)
        channels = min(first.channels, room) // size * size
        if channels >= budget.min_keep.channels:
            found.append((abs(heads / first.heads - channels / first.channels), heads, channels))
    if not found:
        raise UserError(
            f"budget.round_to: {size} and budget.min_keep leave no number of heads and channels within "
            f"{limit:,}; lower them"
        )
    return min(found)[1:]


def cut(network: Backbone, criterion: str, heads: int, channels: int, seed: int) -> Masks:
    """Keep so many heads and channels of every block: those of the largest norms, or random ones.

    Of the first stage; the others keep the same shares.
    """
    masks, (dims, energy), stacks = Masks.full(network.spec), energies(network), stacks_of(network.spec)
    head_energy = dims.sum(-1)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        head_energy, energy = (torch.rand(e.shape, generator=generator) for e in (head_energy, energy))
    for stack in stacks:
        wider_by = _factors(stacks[0], stack)
        stack.of_dims(masks.dims).logical_and_(_largest(stack.of_heads(head_energy), heads * wider_by[0])[..., None])
        stack.of_channels(masks.channels).logical_and_(_largest(stack.of_channels(energy), channels * wider_by[1]))
    return masks


def _largest(energy: Tensor, count: int) -> Tensor:
    kept = torch.zeros(energy.shape, dtype=torch.bool)
    return kept.scatter_(-1, energy.cpu().topk(count).indices, True)


def _factors(first: Stack, stack: Stack) -> tuple[int, int]:
    """How many times the heads and the channels of the first stage a stage has."""
    pairs = (stack.heads, first.heads), (stack.channels, first.channels)
    if any(wider % narrow for wider, narrow in pairs):
        raise UserError("model.name: the stages of this network do not widen by whole factors, which one_shot asks for")
    heads, channels = (wider // narrow for wider, narrow in pairs)
    return heads, channels


def _channel(costs: UnitCosts) -> int:
    """Of a channel in every block of the first stage, and of the same share of the others."""
    return sum(len(part.stack) * _factors(costs.stacks[0].stack, part.stack)[1] * part.channel for part in costs.stacks)


def _total(costs: UnitCosts, heads: int, channels: int) -> int:
    total, first = costs.fixed + channels * _channel(costs), costs.stacks[0].stack
    for part in costs.stacks:
        block = part.attn + heads * _factors(first, part.stack)[0] * part.whole_head + part.mlp
        total += len(part.stack) * block
    return total
