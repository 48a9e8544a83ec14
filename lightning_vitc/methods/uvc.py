"""UVC: pruning, skipping and distillation under one budget (Yu et al., ICLR 2022).

Legend: s1, s3, r the heads, MLP channels and value dimensions to remove, y, p their duals and z the price of the
budget (all in `search`); a gate runs or skips a block, or each of its branches; a the share of distillation, T its
temperature.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_vitc.budget.gates import SkipGates
from lightning_vitc.budget.masks import Masks, check_minima
from lightning_vitc.budget.plan import Plan
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.prunable import energies, masked, pruned_spec
from lightning_vitc.budget.reachable import least_blocks, multiples, reachable_of, smallest
from lightning_vitc.budget.search import BudgetedSearch, SearchRates
from lightning_vitc.budget.sketch import sketch_of
from lightning_vitc.budget.stacks import necessary, present
from lightning_vitc.budget.target import Target, target_of
from lightning_vitc.budget.unit_costs import removed
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.post_training import decided_masks, post_train, teacher_of
from lightning_vitc.schema import (
    BudgetConfig,
    Experiment,
    OptimizerConfig,
    SearchArguments,
    bounded,
    must_be_trained,
    must_keep_precision,
)
from lightning_vitc.training.losses import distilled_cross_entropy
from lightning_vitc.training.module import CompressionModule, StepResult, Variant
from lightning_vitc.training.teacher import Teacher, must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

UNDECIDED = -1.0
PIECES = ("heads", "dims", "channels")


@dataclass
class Arguments(SearchArguments):
    """Keys of `method:` for UVC."""

    prune: bool = True  # heads, value dimensions and channels
    skip: Literal["block", "sublayer", "none"] = "block"  # what a gate skips
    skip_share: float = bounded(0.5, ge=0, le=1)  # of what is removed, removed by skipping at most; ours
    warmup_gate: float = bounded(0.5, gt=0, le=1)  # of every gate before the search
    gate_lr: float = bounded(0.05, gt=0)
    gate_every: int = bounded(50, gt=0)  # optimizer steps between updates of the gates
    start: Literal["cut", "compensate"] = "cut"  # of the post-training; compensate folds in what is cut off (ours)
    start_images: int = bounded(256, gt=0)  # training images, unaugmented, that compensate looks at

    @property
    def share_of_skipping(self) -> float | None:
        """Without pruning it is the budget alone that says how many blocks stay."""
        return self.skip_share if self.prune else None

    def validate(self, experiment: Any = None) -> None:
        """Rules between keys, and with the experiment's others; a violation is a ValueError naming the key."""
        if not self.prune and self.skip == "none":
            raise ValueError("method.prune: false with skip=none leaves nothing to compress; set one of them")
        if experiment is not None:
            must_be_trained(experiment)
            must_keep_precision(experiment)
            least, budget = experiment.budget.min_keep, experiment.budget
            pruned = {"round_to": budget.round_to, **{f"min_keep.{key}": getattr(least, key) for key in PIECES}}
            for key, value in pruned.items():
                if not self.prune and value not in (None, 1):
                    raise ValueError(f"budget.{key}: has no effect with method.prune=false; leave it out")
            if self.skip == "none" and least.blocks is not None:
                raise ValueError("budget.min_keep.blocks: has no effect with method.skip=none; leave it out")


class UVC(CompressionModule):
    """The search; its controls are `searching`, `target_ratio`, `gate_stage` and `temperature`.

    Args:
        backbone: the dense, pretrained network.
        optimizer: the recipe of the search.
        teacher: the dense network, frozen.
        arguments: the keys of `method:`.
        budget: the section; `target` what it means in numbers.
        seed: of the gates' samples.
    """

    decided: Tensor

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None,
                 arguments: Arguments, budget: BudgetConfig, target: Target, seed: int = 0):  # fmt: skip
        self.arguments, self.budget, self.target = arguments, budget, target
        self.kd = arguments.distillation, arguments.temperature, arguments.kd_reduction
        self.final_ratio = target.ratio
        self.searching, self.target_ratio = True, target.ratio  # controls, set by PruningSchedule
        self.gate_stage = "training"  # control, set by GateStaging
        self.gate_every = 1 if arguments.skip == "none" else arguments.gate_every  # steps; GateStaging must be longer
        self.temperature = 0.5  # control, set by GumbelTemperature
        super().__init__(backbone, optimizer, teacher)
        keys, spec = arguments, backbone.spec
        self.least_blocks = least_blocks(budget.min_keep.blocks, keys.share_of_skipping, target.ratio, spec.depth)
        self.costs = target.unit_costs(spec)
        rates = SearchRates(keys.cut_lr, keys.dual_lr, keys.price_lr)
        self.search = BudgetedSearch(spec, self.costs, budget.min_keep, rates)
        self.register_buffer("decided", torch.full((spec.depth, 2), UNDECIDED))  # gates from when they are frozen
        self._known: Tensor | None = None  # the same once it has been read back from the device
        self.gates: SkipGates | None = None
        if keys.skip != "none":
            there, always = present(spec), necessary(spec)
            self.gates = SkipGates(
                spec.depth, keys.skip, keys.gate_every, seed, there=there, necessary=always
            )  # fmt: skip

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """One forward pass with one gate sample a block, and the price of running it."""
        logits = self.backbone(images, gates=self._sampled_gates())
        taught = None if self.teacher is None else self.teacher(images)
        loss = task_loss = distilled_cross_entropy(logits, targets, taught, *self.kd)
        if self.searching and self.gates is not None and self.gate_stage == "training":
            loss = loss + self._price_of_running()
        return StepResult(loss, {"search/task_loss": task_loss.detach()})

    def _price_of_running(self) -> Tensor:
        """What the gates pay for the blocks they run, down to as many as have to stay."""
        run = self._run()
        spare = (run > 0.5).any(-1).sum() > self.least_blocks
        return spare * self.search.pressure * self.search.ratio(run)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gates have their own pace."""
        if self.gates is not None:
            self.gates.collect(self.global_step, self.searching and self.gate_stage == "training")

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the weights' gradients: those of the gates, which pay the price, have no part in the norm."""
        held = None if self.gates is None else self.gates.logits.grad
        if self.gates is not None:
            self.gates.logits.grad = None
        super().configure_gradient_clipping(*args, **kwargs)
        if self.gates is not None:
            self.gates.logits.grad = held

    def after_step(self) -> None:
        """What follows the step of the weights."""
        if self.searching:
            self.search_step(self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])  # type: ignore[union-attr]

    @torch.no_grad()
    def search_step(self, lr: float) -> None:
        """Proximal step on the weights at their learning rate, gradient step on s and r, dual ascent."""
        run = self._run()
        self.search.measure(run, self.target_ratio)
        if self.arguments.prune:
            self.search.prune(self.backbone, run, lr)
        self.search.reprice()

    def decide(self, limit: int | None = None) -> Masks:
        """The architecture the search ends with: gates, then the exact projection onto the budget.

        Args:
            limit: instead of the budget; gates that were frozen stay, unless they are all there is to decide.
        """
        masks, limit = Masks.full(self.backbone.spec), self.target.amount if limit is None else limit
        masks.branches = self._decide_gates(limit)
        if not self.arguments.prune:
            return masks
        dims, channels = (value.cpu() for value in self.search.importance(*energies(self.backbone)))
        return project(masks, dims, channels, self.costs, limit, self.budget.min_keep,
                       self.budget.round_to)  # fmt: skip

    def variants(self) -> list[Variant]:
        """The network as it would be cut now, masked, without the projection."""
        if not hasattr(self, "search"):
            return [Variant("searched", self.backbone.spec, self.backbone)]
        masks = self.search.masks(*energies(self.backbone), self._run() > 0.5)
        return [Variant("searched", pruned_spec(self.backbone.spec, masks), masked(self.backbone, masks))]

    def observe(self) -> dict[str, Tensor]:
        """Where the search stands."""
        return self.search.observe(self._run(), self.target_ratio)

    def own_rates(self) -> dict[str, float]:
        """Gates learn at a rate of their own, undecayed."""
        return {} if self.gates is None else {"gates.logits": self.arguments.gate_lr}

    def _run(self) -> Tensor:
        """Probability that each branch runs, [L, 2]; differentiable while gates are trained."""
        if self.gates is None or self.gate_stage == "closed":
            return torch.ones(self.backbone.spec.depth, 2, device=self.search.price.device)
        return self._frozen_gates() if self.gate_stage == "frozen" else self.gates.probability()

    def _sampled_gates(self) -> Tensor | None:
        """Gates of this step, the same on every rank."""
        if self.gates is None:
            return None
        if not self.searching:
            return self.gates.constant(self.arguments.warmup_gate)
        if self.gate_stage == "training":
            return self.gates.sample(self.global_step, self.temperature)
        return self.gates.constant(self._run())

    def _frozen_gates(self) -> Tensor:
        if self._known is None:  # once: it reads the gates back from their device
            self.decided.copy_(self._decide_gates(self.target.amount))
            self._known = self.decided
        return self._known

    def _decide_gates(self, limit: int) -> Tensor:
        """[L, 2] on the CPU; once they were frozen, what they were frozen to."""
        if self.gates is None:
            return present(self.backbone.spec)
        frozen = float(self.decided[0, 0]) != UNDECIDED
        if frozen and (self.arguments.prune or limit == self.target.amount):
            return self.decided.bool().cpu()
        full, keys = Masks.full(self.backbone.spec), self.arguments
        pruned = smallest(full, self.costs, self.budget) if keys.prune else full
        return self.gates.decide(
            lambda branches: self.costs.total(full.running(branches)),
            lambda branches: self.costs.total(pruned.running(branches)),
            limit, self.least_blocks,
        )  # fmt: skip

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """From what the minima leave to dense; a step is a channel or a value dimension, or `round_to` of them."""
        keys, budget = experiment.method, experiment.budget
        check_minima(budget.min_keep, spec)
        if keys.distillation:
            must_train_both_heads(spec, keys.distillation, "method.distillation")
        target = target_of(budget, spec, "uvc", table_for(experiment, spec))
        costs = target.unit_costs(spec)
        skip, share = keys.skip != "none", keys.share_of_skipping
        reachable = reachable_of(spec, costs, budget, target, prune=keys.prune, skip=skip, share=share)
        blocks = least_blocks(budget.min_keep.blocks, share, target.ratio, spec.depth) if skip else spec.depth
        details = {**multiples(spec, budget), "min_keep": vars(budget.min_keep) | {"blocks": blocks}}
        sketch = partial(sketch_of, spec, costs, target.amount, budget, blocks if skip else None, keys.prune)
        return Plan(target.quantity, target.amount, reachable, details, dense=target.measured_dense, sketch=sketch)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Dense teacher, search, projection and compaction, post-training, rows."""
        keys, budget = run.arguments, run.experiment.budget
        dense = run.start()
        teacher = teacher_of(run, dense)
        target = target_of(budget, dense.spec, "uvc", run.latency.table())
        uvc = run.fit(
            "search",
            lambda: cls(deepcopy(dense), run.optimizer, teacher, keys, budget, target, run.experiment.seed),
            select="last",
        )
        masks = decided_masks(run, dense.spec, target, uvc.decide)
        final, sources = post_train(run, uvc.backbone, masks, teacher)
        run.add_row("uvc", final, None, sources, **removed(masks, uvc.costs))
