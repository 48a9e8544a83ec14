"""What a budget asks of a network that is smaller and also skips: an expected cost, and that of the resident model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.plan import Plan, Reachable, Sketch
from lightning_vitc.budget.projection import project
from lightning_vitc.budget.prunable import pruned_spec
from lightning_vitc.budget.reachable import multiples, reachable_of, smallest
from lightning_vitc.budget.sketch import importances
from lightning_vitc.budget.stacks import necessary, skippable
from lightning_vitc.budget.target import LATENCY, Target, latency_amount, parse_amount, target_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.errors import UserError
from lightning_vitc.latency.table import LatencyTable
from lightning_vitc.networks import costs
from lightning_vitc.networks.gates.shapes import GATES, gate_macs
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig


@dataclass(frozen=True)
class DynamicTargets:
    """Limits of one image: in MACs, or in nanoseconds.

    Attributes:
        dense: what the dense network costs.
        expected: the mean over the validation images, gates included.
        static: of the resident model with all its branches, gates included; `None` where nothing is pruned.
        convention: how MACs are counted.
        table: of a latency, what it is reckoned with.
    """

    dense: int
    expected: int
    static: int | None
    convention: str = "full"
    table: LatencyTable | None = None

    @property
    def ratio(self) -> float:
        """The expected cost as a share of dense."""
        return self.expected / self.dense

    @property
    def quantity(self) -> str:
        """What is limited."""
        return "macs" if self.table is None else LATENCY

    def resident(self, spec: ArchSpec) -> Target:
        """What the resident model of a network, with its gates, may cost; where nothing is pruned, what it does."""
        if self.static is None:
            dense = costs.macs(spec, self.convention, "usdc")
            return Target("macs", dense, dense, self.convention, "usdc")
        return Target(self.quantity, self.static, self.dense, self.convention, "usdc", self.table)

    def unit_costs(self, spec: ArchSpec) -> UnitCosts:
        """Of the pieces of the dense network."""
        return Target(self.quantity, self.expected, self.dense, self.convention, "usdc", self.table).unit_costs(spec)

    def dynamic_costs(self, spec: ArchSpec) -> DynamicCosts:
        """Of the branches of a network with gates."""
        return DynamicCosts.of(spec, costs.macs if self.table is None else self.table.measure)

    def gate_cost(self, name: str, spec: ArchSpec, block: int) -> int:
        """Of a gate network in front of a branch of a block."""
        return gate_macs(name, spec.width_at(block)) if self.table is None else self.table.gate(name, block)

    def gates_cost(self, spec: ArchSpec, names: Sequence[str]) -> int:
        """Of the gates of all branches that may be skipped, each the dearest of those."""
        return sum(
            int(count) * max((self.gate_cost(name, spec, block) for name in names), default=0)
            for block, count in enumerate(skippable(spec).sum(1))
        )


def targets_of(
    budget: BudgetConfig, spec: ArchSpec, static: bool, dynamic: bool, table: LatencyTable | None = None
) -> DynamicTargets:
    """The limits of `budget.macs`, or of `budget.latency_ms`, and of `budget.static`.

    Where `budget.static` is left out, pruning and skipping each take the same share: the resident model has the
    square root of the expected ratio (ours). Without skipping, the resident model is what the budget limits.

    Raises:
        UserError: for an amount that is none, is more than dense, or contradicts the other.
    """
    whole = target_of(budget, spec, "usdc", table)
    if not static:
        amount = None
    elif not dynamic:
        amount = whole.amount
    elif budget.static is None:
        amount = math.isqrt(whole.amount * whole.dense)
    else:
        parse = parse_amount if table is None else latency_amount
        amount = parse(budget.static, whole.dense, "budget.static")
        if amount > whole.dense:
            raise UserError(f"budget.static: {budget.static} is more than the dense model's {whole.dense:,}")
        if amount < whole.amount:
            raise UserError(
                f"budget.static: {budget.static} is {whole.shown(amount)}, less than the {whole.shown(whole.amount)} "
                f"of budget.{whole.quantity}, which would leave nothing to skip; "
                "set method.dynamic=false for pruning alone"
            )
    return DynamicTargets(whole.dense, whole.amount, amount, budget.convention, table)


def plan_of(spec: ArchSpec, targets: DynamicTargets, budget: BudgetConfig, names: tuple[str, ...]) -> Plan:
    """What pruning, and skipping by gates of `names` (none: no skipping), can reach; gates at their dearest."""
    units, quantity = targets.unit_costs(spec), targets.quantity
    target = replace(targets.resident(spec), quantity=quantity, table=targets.table,
                     amount=targets.static or targets.dense, dense=targets.dense)  # fmt: skip
    pruned = reachable_of(spec, units, budget, target, prune=True, skip=False, share=None)
    gates = targets.gates_cost(spec, names)
    static = replace(pruned, least=pruned.least + gates)
    least = {key: value for key, value in vars(budget.min_keep).items() if key != "blocks"}
    details = {"min_keep": least, **multiples(spec, budget), "gates": list(names)}
    sketch = partial(_sketch, spec, targets, budget, names)
    if not names:
        return Plan(quantity, targets.expected, static, details, dense=target.measured_dense, sketch=sketch)
    further = {} if targets.static is None else {"static": Plan(quantity, targets.static, static)}
    full = Masks.full(spec)
    always = full.running(full.branches & necessary(spec)[:, None])
    always = always if targets.static is None else smallest(always, units, budget)
    reachable = Reachable(units.total(always) + gates, units.dense, 1)
    return Plan(quantity, targets.expected, reachable, details, further, target.measured_dense, sketch)


def _sketch(spec: ArchSpec, targets: DynamicTargets, budget: BudgetConfig, names: tuple[str, ...]) -> Sketch:
    """The resident model with the dearest gates, and how often its branches run."""
    gate = max(names, key=lambda name: targets.gates_cost(spec, (name,)), default=None)
    gates = 0 if gate is None else targets.gates_cost(spec, (gate,))
    masks, units = Masks.full(spec), targets.unit_costs(spec)
    if targets.static is not None:
        limit = targets.static - gates
        masks = project(masks, *importances(masks, units), units, limit, budget.min_keep, budget.round_to)
    gated = [[gate if may else None for may in block] for block in skippable(spec).tolist()]
    network = pruned_spec(spec.with_gates(gated), masks)
    if gate is None:
        return Sketch(network)
    parts = targets.dynamic_costs(network)
    run = min((targets.expected - parts.fixed) / (parts.worst - parts.fixed), 1.0)
    return Sketch(network, run, f"{100 * run:.0f} % of its branches run for the mean image")


def gate_names(search: str) -> tuple[str, ...]:
    """The candidates of `method.gate_search`: all, or the one of `fixed:<name>`."""
    return tuple(GATES) if search == "nas" else (search.removeprefix("fixed:"),)
