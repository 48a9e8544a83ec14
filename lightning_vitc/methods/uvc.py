"""UVC: pruning, skipping and distillation under one budget (Yu et al., ICLR 2022).

Legend: s1, s3, r the heads, MLP channels and value dimensions to remove, y, p their duals and z the price of the
budget (all in `search`); a gate runs or skips a block, or each of its branches; a the share of distillation, T its
temperature.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.backbone import Backbone
from lightning_vitc.budget import Target, target_of
from lightning_vitc.losses import cross_entropy, distillation
from lightning_vitc.module import CompressionModule, StepResult, Variant
from lightning_vitc.planning import Plan, Reach
from lightning_vitc.projection import project
from lightning_vitc.prunable import Masks, UnitCosts, kept_of, masked_weights, pruned_spec
from lightning_vitc.schema import BudgetConfig, Experiment, OptimizerConfig, bounded
from lightning_vitc.search import BudgetedSearch, SearchRates
from lightning_vitc.teacher import Teacher
from lightning_vitc.vit import Block

if TYPE_CHECKING:
    from lightning_vitc.pipeline import Pipeline


@dataclass
class Arguments:
    """Keys of `method:` for UVC."""

    takes_budget: ClassVar[bool] = True

    prune: bool = True  # heads, value dimensions and channels
    skip: Literal["block", "sublayer", "none"] = "block"  # what a gate skips
    distillation: float = bounded(0.1, ge=0, le=1)  # a
    temperature: float = bounded(1.0, gt=0)  # T
    kd_reduction: Literal["batchmean", "numel"] = "batchmean"  # numel: also divided by classes, as released
    warmup_gate: float = bounded(0.5, gt=0, le=1)  # of every gate before the search
    cut_lr: float = bounded(0.005, gt=0)  # of s and r, in shares of a block a step
    dual_lr: float = bounded(0.01, gt=0)  # of y and p
    price_lr: float = bounded(1.0, gt=0)  # of z
    finetune_epochs: int = bounded(120, gt=0)  # post-training of the compacted model
    finetune_lr: float = bounded(1e-4, gt=0)

    def validate(self) -> None:
        """Rules between keys; a violation is a ValueError naming the key."""
        if not self.prune and self.skip == "none":
            raise ValueError("method.prune: false with skip=none leaves nothing to compress; set one of them")


class UVC(CompressionModule):
    """The search; its controls are `searching`, `target_ratio`, `gate_stage` and `temperature`.

    Args:
        backbone: the dense, pretrained network.
        optimizer: the recipe of the search.
        teacher: the dense network, frozen.
        arguments: the keys of `method:`.
        budget: the section; `target` what it means in numbers.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None,
                 arguments: Arguments, budget: BudgetConfig, target: Target, seed: int = 0):  # fmt: skip
        self.arguments, self.budget, self.target, self.seed = arguments, budget, target, seed
        self.final_ratio = target.ratio
        self.searching, self.target_ratio = True, target.ratio  # controls, set by PruningSchedule
        self.gate_stage = "training"  # control, set by GateStaging
        self.temperature = 0.5  # control, set by GumbelTemperature
        super().__init__(backbone, optimizer, teacher)
        costs = UnitCosts.of(backbone.spec, target.quantity, target.convention, target.method)
        rates = SearchRates(arguments.cut_lr, arguments.dual_lr, arguments.price_lr)
        self.search = BudgetedSearch(backbone.spec, costs, budget.min_keep, rates)
        gates = {"block": 1, "sublayer": 2, "none": 0}[arguments.skip]
        self.gate_logits = nn.Parameter(torch.tensor([-1.0, 1.0]).repeat(backbone.spec.depth, gates, 1))

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """One forward pass with one gate sample a block, and the price of running it."""
        logits = self.backbone(images, gates=self._sample())
        loss = cross_entropy(logits, targets)
        if self.teacher is not None:
            a, keys = self.arguments.distillation, self.arguments
            taught = distillation(logits, self.teacher(images), keys.temperature)
            if keys.kd_reduction == "numel":
                taught = taught / logits.shape[-1]
            loss = (1 - a) * loss + a * taught
        terms = {"search/task_loss": loss.detach(), "search/ratio": self.search.ratio(self._run().detach())}
        if self.searching and self.gate_stage == "training" and self.arguments.skip != "none":
            pressure = self.search.price + self.search.rates.penalty * self.search.excess.clamp_min(0)
            loss = loss + pressure * self.search.ratio(self._run())
        terms |= {"search/price": self.search.price, "search/target": loss.new_tensor(self.target_ratio)}
        return StepResult(loss, terms)

    @torch.no_grad()
    def after_step(self) -> None:
        """Proximal step on the weights, gradient step on s and r, dual ascent."""
        if not (self.searching and self.arguments.prune):
            return
        weights = [[block.attn.proj.weight for block in self._blocks], [block.mlp.fc2.weight for block in self._blocks]]
        lr = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]  # type: ignore[union-attr]
        self.search.shrink(weights, *self.energies(), lr)
        self.search.update(*self.energies(), self._run(), self.target_ratio)

    @property
    def _blocks(self) -> list[Block]:
        return list(self.backbone.blocks)  # type: ignore[arg-type]

    @torch.no_grad()
    def energies(self) -> tuple[Tensor, Tensor]:
        """Squared norms of the columns of `attn.proj` [L, H, d] and of `mlp.fc2` [L, F]."""
        proj = torch.stack([block.attn.proj.weight.square().sum(0) for block in self._blocks])
        fc2 = torch.stack([block.mlp.fc2.weight.square().sum(0) for block in self._blocks])
        return proj.unflatten(1, (self.search.heads, self.search.dims)), fc2

    def decide(self) -> Masks:
        """The architecture the search ends with: gates, then the exact projection onto the budget."""
        dims, channels = (energy.cpu() for energy in self.energies())
        masks = Masks.full(self.backbone.spec)
        masks.branches = self._branches()
        if not self.arguments.prune:
            return masks
        while self.search.costs.total(masks) < self.target.amount and not bool(masks.branches.all()):
            masks.branches |= _likeliest_skipped(self._run().cpu(), masks.branches)
        return project(masks, dims, channels, self.search.costs, self.target.amount, self.budget.min_keep,
                       self.budget.round_to)  # fmt: skip

    def variants(self) -> list[Variant]:
        """The network as it would be cut now, masked."""
        if not hasattr(self, "search"):
            return [Variant("searched", self.backbone.spec, self.backbone)]
        masks = self.search.masks(*self.energies(), self._run() > 0.5)
        return [Variant("searched", pruned_spec(self.backbone.spec, masks), lambda images: self._masked(images, masks))]

    def no_weight_decay(self) -> set[str]:
        """Gates are not decayed."""
        return super().no_weight_decay() | {"gate_logits"}

    def _masked(self, images: Tensor, masks: Masks) -> Tensor:
        return functional_call(self.backbone, masked_weights(dict(self.backbone.named_parameters()), masks), (images,))

    def _run(self) -> Tensor:
        """Probability that each branch runs, [L, 2], differentiable."""
        if self.arguments.skip == "none":
            return torch.ones(self.backbone.spec.depth, 2, device=self.gate_logits.device)
        return self.gate_logits.softmax(-1)[..., 1].expand(-1, 2)

    def _sample(self) -> Tensor | None:
        """Gates of this step, the same on every rank: straight-through Gumbel-softmax."""
        if self.arguments.skip == "none":
            return None
        shape = self.gate_logits.shape[:2]
        if not self.searching:
            gates = self.gate_logits.new_full(shape, self.arguments.warmup_gate)
        elif self.gate_stage == "closed":
            gates = self.gate_logits.new_ones(shape)
        elif self.gate_stage == "frozen":
            gates = (self.gate_logits[..., 1] > self.gate_logits[..., 0]).float()
        else:
            gates = _straight_through(self.gate_logits, self.temperature, f"{self.seed} {self.global_step}")
        return gates.squeeze(1) if self.arguments.skip == "block" else gates

    def _branches(self) -> Tensor:
        """Which branches run: those whose run logit is larger, and the likeliest, as many as have to."""
        run = self._run().detach().cpu()
        least = least_blocks(self.budget, self.target, self.backbone.spec)
        branches = run > 0.5
        while int(branches.any(-1).sum()) < least:
            branches |= _likeliest_skipped(run, branches, whole=True)
        return branches

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """From what the minima leave to dense; a step is a channel or a value dimension, or `round_to` of them."""
        keys, budget = experiment.method, experiment.budget
        target = target_of(budget, spec, "uvc")
        costs = UnitCosts.of(spec, target.quantity, target.convention, "uvc")
        masks, least = Masks.full(spec), least_blocks(budget, target, spec)
        if keys.skip != "none":
            masks.branches[least:] = False
        if keys.prune:
            masks = project(
                masks, masks.dims.float(), masks.channels.float(), costs, 0, budget.min_keep, budget.round_to
            )
        step = budget.round_to * max(costs.dim, costs.channel) if keys.prune else int(costs.dense / spec.depth)
        return Plan(target.quantity, target.amount, Reach(costs.total(masks), costs.dense, step),
                    {"min_blocks": least, "min_keep": vars(budget.min_keep), "round_to": budget.round_to})  # fmt: skip

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Dense teacher, search, projection and compaction, post-training, rows."""
        from lightning_vitc.methods.dense import Arguments as Finetuning
        from lightning_vitc.methods.dense import Dense

        keys, budget = run.arguments, run.experiment.budget
        dense = run.dense()
        teacher = run.teacher() or Teacher(deepcopy(dense), dense.spec.num_classes) if keys.distillation else None
        cls.plan(dense.spec, run.experiment).check(budget.macs or budget.params)
        target = target_of(budget, dense.spec, "uvc")
        uvc = run.fit(
            "search",
            lambda: cls(deepcopy(dense), run.optimizer, teacher, keys, budget, target, run.experiment.seed),
            select="last",
        )
        kept = kept_of(dense.spec, uvc.decide())
        post = Finetuning(distillation="soft", distillation_weight=keys.distillation, temperature=keys.temperature)
        recipe = replace(run.optimizer, lr=keys.finetune_lr, warmup_epochs=0)
        final = run.fit(
            "finetune",
            lambda: Dense(run.compacted(uvc.backbone, kept), recipe, teacher, post),
            epochs=keys.finetune_epochs,
        )
        run.add_row("uvc", final.backbone, None)


def least_blocks(budget: BudgetConfig, target: Target, spec: ArchSpec) -> int:
    """Blocks that stay: the user's minimum, or the budget's share of them, rounded up."""
    return min(spec.depth, budget.min_keep.blocks or math.ceil(target.ratio * spec.depth))


def _straight_through(logits: Tensor, temperature: float, seed: str) -> Tensor:
    """Hard gates [L, G] from logits [L, G, 2] with the gradient of the soft ones; noise from the seed alone."""
    import zlib

    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)))
    soft = F.softmax((logits + noise.to(logits.device)) / temperature, dim=-1)[..., 1]
    return (soft > 0.5).float() - soft.detach() + soft


def _likeliest_skipped(run: Tensor, branches: Tensor, whole: bool = False) -> Tensor:
    """The skipped branch (or block) that is likeliest to run, as a mask [L, 2]."""
    chance = run.masked_fill(branches, -1.0)
    if whole:
        chance = chance.masked_fill(branches.any(-1, keepdim=True), -1.0)
        return torch.zeros_like(branches).index_fill_(0, chance.max(-1).values.argmax(), True)
    position = int(chance.argmax())
    found = torch.zeros_like(branches)
    found.view(-1)[position] = True
    return found
