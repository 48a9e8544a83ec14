"""USDC: a smaller model that also skips by the image (Yuan et al., arXiv 2310.11117).

Legend: a gate lets the attention or the MLP of a block run or skips it; alpha are the architecture parameters that
choose its network (`gates.architecture`), tau the temperature of the Gumbel-softmax; L_res the distance of the
expected MACs from their target.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from lightning_vitc.budget.masks import Masks, check_minima
from lightning_vitc.budget.plan import Plan
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.prunable import energies, kept_of, masked, pruned_spec
from lightning_vitc.budget.search import BudgetedSearch, SearchRates
from lightning_vitc.budget.stacks import skippable
from lightning_vitc.budget.unit_costs import removed
from lightning_vitc.dynamic.finetuning import GatedFinetuning
from lightning_vitc.dynamic.gate_selection import GateSelection
from lightning_vitc.dynamic.late_gradients import Deciding
from lightning_vitc.dynamic.latency import as_measured
from lightning_vitc.dynamic.report import settled
from lightning_vitc.dynamic.targets import DynamicTargets, gate_names, plan_of, targets_of
from lightning_vitc.dynamic.training import GatedTraining
from lightning_vitc.latency.meter import table_for
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.gates.attaching import names_of, with_gates, without_gates
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
from lightning_vitc.training.module import StepResult, Variant
from lightning_vitc.training.teacher import Teacher, must_train_both_heads

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


@dataclass
class Arguments(SearchArguments):
    """Keys of `method:` for USDC."""

    budget_keys: ClassVar[tuple[str, ...]] = (
        "macs", "static", "round_to", "min_keep", "latency_ms", "device", "batch_size",
    )  # fmt: skip

    static: bool = True  # remove heads, value dimensions and channels
    dynamic: bool = True  # skip attention and MLP by the image
    gate_search: Literal[
        "nas", "fixed:linear", "fixed:relu", "fixed:gelu", "fixed:relu_ln", "fixed:gelu_ln", "fixed:relu_bn",
        "fixed:gelu_ln_3"] = "nas"  # fmt: skip
    grouping: Literal["recursive", "avg-32", "avg-8", "random", "sample", "batch"] = "recursive"
    gamma: float = bounded(50.0, gt=0)  # weight of L_res
    gate_lr: float = bounded(1e-3, gt=0)
    architecture_lr: float = bounded(0.01, gt=0)  # of alpha
    architecture_temperature: float = bounded(1.0, gt=0)  # of the softmax over alpha
    finetune_temperature: float = bounded(0.5, gt=0)  # tau of the fine-tuning
    finetune_per_sample: float = bounded(0.5, ge=0, le=1)  # share of its images that decide alone; 0: all in groups

    def validate(self, experiment: Experiment) -> None:
        """Rules between keys; a violation is a ValueError naming the key."""
        if not self.static and not self.dynamic:
            raise ValueError("method.static: false with method.dynamic=false leaves nothing to compress")
        must_be_trained(experiment)
        must_keep_precision(experiment)
        freezing = experiment.callbacks.get("gate_freezing")
        if self.dynamic and self.gate_search == "nas" and (freezing is None or freezing.at == 1):
            raise ValueError(
                "callbacks.gate_freezing.at: never, but one gate network a branch must be chosen before the end; "
                "set it below 1, or method.gate_search=fixed:<name>"
            )
        if self.dynamic and experiment.trainer.compile == "whole":
            raise ValueError("trainer.compile: whole has no place for gates that decide between branches; set blocks")
        if self.dynamic and experiment.budget.batch_size != 1:
            raise ValueError(
                "budget.batch_size: the expected latency of a network that skips by the image is that of batch size 1; "
                "leave it out, or set method.dynamic=false"
            )
        if experiment.budget.min_keep.blocks is not None:
            raise ValueError("budget.min_keep.blocks: has no effect, no block is removed for good; leave it out")
        for key in ("static", "dynamic"):
            if experiment.budget.static is not None and not getattr(self, key):
                raise ValueError(f"budget.static: has no effect with method.{key}=false; leave it out")


class USDC(GatedTraining):
    """The joint stage; its controls are `searching`, `target_ratio`, `selecting` and `temperature`.

    Our realization. The paper leaves open what its gates see, which seven networks they are chosen from, how groups
    of a size that is no power of two are split, how heads and channels are scored, and how its loss weighs two
    budgets. Here a gate sees the mean of the branch's normalized tokens; the networks are `gates.shapes.GATES`; heads,
    value dimensions and channels are pruned by UVC's primal-dual search under `budget.static`; and the training ends
    with a stage on the compacted network, where a share of the images decides alone and without noise, which is what
    L_res counts.

    Args:
        backbone: the dense, pretrained network.
        optimizer: the recipe of the stage.
        teacher: the dense network, frozen.
        arguments: the keys of `method:`.
        budget: the section; `targets` what it means in numbers.
        seed: of the noise and of random groups.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig, teacher: Teacher | None,
                 arguments: Arguments, budget: BudgetConfig, targets: DynamicTargets, seed: int = 0):  # fmt: skip
        self.budget = budget
        self.final_ratio = targets.ratio
        self.searching, self.target_ratio = True, targets.ratio  # controls, set by PruningSchedule
        self.selecting = True  # control, set by GateFreezing
        self.temperature = 0.5  # control, set by GumbelTemperature
        self._mixture: Tensor | None = None  # shares of the gate networks in this step
        self._deciding: dict[int, Deciding] | None = None  # and the gates of each block with these
        self._frozen = False
        super().__init__(backbone, optimizer, teacher, arguments, targets, seed)
        spec, keys = backbone.spec, arguments
        self.costs = targets.unit_costs(spec)
        rates = SearchRates(keys.cut_lr, keys.dual_lr, keys.price_lr)
        self.search = BudgetedSearch(spec, self.costs, budget.min_keep, rates)
        names = gate_names(keys.gate_search)
        self.gates: GateSelection | None = None
        if keys.dynamic:
            price = [[targets.gate_cost(name, spec, block) for name in names] for block in range(spec.depth)]
            widths = [spec.width_at(block) for block in range(spec.depth)]
            self.gates = GateSelection(widths, names, keys.architecture_temperature, price, skippable(spec))

    def step(self, images: Tensor, targets: Tensor) -> StepResult:
        """One forward pass with one gate sample a group and branch."""
        self._mix()
        return super().step(images, targets)

    def gate_margin(self, block: int, branch: int, pooled: Tensor) -> Tensor:
        """Of the mixed candidates, or of the winner."""
        assert self._deciding is not None
        return self._deciding[block].margin(pooled)

    def expected_cost(self, run: Tensor) -> Tensor:
        """With branches as far as they are cut now; the gates are fixed costs of their own."""
        cost = self.costs.fixed + (self.search.branches() * run).sum()
        return cost if self.gates is None or self._mixture is None else cost + self.gates.cost(self._mixture)

    def after_step(self) -> None:
        """What follows the step of the weights."""
        super().after_step()
        if self.searching and self.targets.static is not None:
            self.prune_step(self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])  # type: ignore[union-attr]

    @torch.no_grad()
    def prune_step(self, lr: float) -> None:
        """Proximal step on the weights at their learning rate, gradient step on the cuts, dual ascent (as UVC)."""
        every = torch.ones(self.backbone.spec.depth, 2, device=self.search.price.device)  # the resident model
        self.search.measure(every, self._static_target())
        self.search.prune(self.backbone, every, lr)
        self.search.reprice()

    # What the stage ends with

    def decide(self, limit: int | None = None) -> Masks:
        """What is pruned: the exact projection onto the static budget, or `limit`, which the gates are part of."""
        masks, targets = Masks.full(self.backbone.spec), self.targets
        if targets.static is None:
            return masks
        dims, channels = (value.cpu() for value in self.search.importance(*energies(self.backbone)))
        limit = targets.static if limit is None else limit
        limit -= 0 if self.gates is None else self.gates.cost_of_winners()
        return project(masks, dims, channels, self.costs, limit, self.budget.min_keep, self.budget.round_to)

    def gated(self) -> Backbone:
        """The dense network with the winning gates in its blocks."""
        assert self.gates is not None
        return with_gates(self.backbone, self.gates.winners())

    # Validation and logs

    def variants(self) -> list[Variant]:
        """The network as it would be cut now, masked, without the projection."""
        if not hasattr(self, "search"):
            return [Variant("usdc", self.backbone.spec, self.deciding)]
        masks = self._masks()
        network = masked(self.backbone, masks)
        return [Variant("usdc", pruned_spec(self.backbone.spec, masks), partial(self.deciding, network=network))]

    def deciding(self, images: Tensor, network: Callable[..., Tensor] | None = None) -> Tensor:
        """With the gates mixed anew, as for every pass."""
        self._mix()
        return super().deciding(images, network)

    def observe(self) -> dict[str, Tensor]:
        """Where the search of the resident model stands, and how sure the choice of gate networks is."""
        every = torch.ones(self.backbone.spec.depth, 2, device=self.search.price.device)
        scalars = {
            "search/static_ratio": self.search.ratio(every).detach(),
            "search/static_target": every.new_full((), self._static_target()),
            "search/price": self.search.price,
        }
        if self.gates is not None:
            scalars["usdc/largest_share"] = self.gates.mixture(self._frozen).detach().amax(-1).mean()
        return scalars

    # Details

    @property
    def gated_branches(self) -> bool:
        """Whether anything is skipped."""
        return self.gates is not None

    def weight_of_residual(self) -> float:
        """None before the search."""
        return self.arguments.gamma if self.searching and self.gates is not None else 0.0

    def resident(self) -> ArchSpec:
        """The network as it would be cut now, with the gates that would be chosen."""
        spec = pruned_spec(self.backbone.spec, self._masks())
        if self.gates is None:
            return spec
        return spec.with_gates(names_of(self.gates.winners()))

    def expected_target(self) -> float:
        """On the way that PruningSchedule goes."""
        return self.target_ratio * self.targets.dense

    def softness(self) -> float:
        """The annealed temperature."""
        return self.temperature

    def own_rates(self) -> dict[str, float]:
        """Gates and alpha learn at rates of their own, undecayed."""
        named = [name for name, _ in self.named_parameters() if name.startswith("gates.")]
        rates = dict.fromkeys(named, self.arguments.gate_lr)
        return rates | ({"gates.architecture": self.arguments.architecture_lr} if named else {})

    def _mix(self) -> None:
        if self.gates is not None:
            if not self.selecting and not self._frozen:  # once: it reads a buffer back from its device
                self.gates.freeze()
                self._frozen = True
            self._mixture = self.gates.mixture(self._frozen)
            self._deciding = self.gates.deciding(self._mixture)

    def _masks(self) -> Masks:
        every = torch.ones(self.backbone.spec.depth, 2, dtype=torch.bool, device=self.search.price.device)
        return self.search.masks(*energies(self.backbone), every)

    def _static_target(self) -> float:
        """As far on its way as the expected target."""
        final = (self.targets.static or self.targets.dense) / self.targets.dense
        way = 1.0 if self.final_ratio == 1 else (1 - self.target_ratio) / (1 - self.final_ratio)
        return 1 - (1 - final) * way

    @classmethod
    def plan(cls, spec: ArchSpec, experiment: Experiment) -> Plan:
        """The expected cost from everything skipped to everything run, the resident one as far as the minima allow."""
        keys, budget = experiment.method, experiment.budget
        check_minima(budget.min_keep, spec)
        if keys.distillation:
            must_train_both_heads(spec, keys.distillation, "method.distillation")
        names = gate_names(keys.gate_search) if keys.dynamic else ()
        targets = targets_of(budget, spec, keys.static, keys.dynamic, table_for(experiment, spec, names))
        return plan_of(spec, targets, budget, names)

    @classmethod
    def pipeline(cls, run: "Pipeline") -> None:
        """Dense teacher, joint stage, projection and compaction, the compacted network with its gates, rows."""
        keys, budget, seed = run.arguments, run.experiment.budget, run.experiment.seed
        dense = run.start()
        teacher = teacher_of(run, dense)
        table = run.latency.table(gate_names(keys.gate_search) if keys.dynamic else ())
        targets = targets_of(budget, dense.spec, keys.static, keys.dynamic, table)
        usdc = run.fit(
            "joint", lambda: cls(deepcopy(dense), run.optimizer, teacher, keys, budget, targets, seed), select="last"
        )
        resident = usdc.gated().spec if keys.dynamic else dense.spec
        masks = decided_masks(run, resident, targets.resident(resident), usdc.decide)
        pruned = {"pruned_percent": removed(masks, usdc.costs)["pruned_percent"]}
        if not keys.dynamic:
            final, sources = post_train(run, usdc.backbone, masks, teacher)
            macs = costs.macs(final.spec)
            run.add_row("usdc", final, None, sources, expected_macs=macs, worst_macs=macs, **pruned)
            return
        gated, recipe = usdc.gated(), keys.finetuning(run.optimizer)
        aim = as_measured(run, pruned_spec(gated.spec, masks), targets)

        def compacted() -> GatedFinetuning:
            small = run.compacted(gated, kept_of(gated.spec, masks))
            return GatedFinetuning(small, recipe, teacher, keys, aim, seed)

        final = run.fit("finetune", compacted, epochs=keys.finetune_epochs).backbone
        run.add_row("usdc", final, None, **settled(run, final, targets), **pruned)
        run.add_row("usdc_static", without_gates(final), None)
