"""What a budget asks of a network that is smaller and also skips: an expected cost, and that of the resident model."""

import math
from dataclasses import dataclass, replace

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.budget.planning import Plan, Reach
from lightning_vitc.budget.reach import reach_of
from lightning_vitc.budget.target import Target, parse_amount, target_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.dynamic.gate_shapes import GATES, gate_macs
from lightning_vitc.errors import UserError
from lightning_vitc.schema import BudgetConfig


@dataclass(frozen=True)
class DynamicTargets:
    """Limits in MACs of one image.

    Attributes:
        dense: what the dense network costs.
        expected: the mean over the validation images, gates included.
        static: of the resident model with all its branches, gates included; `None` where nothing is pruned.
        convention: how MACs are counted.
    """

    dense: int
    expected: int
    static: int | None
    convention: str = "full"

    @property
    def ratio(self) -> float:
        """The expected cost as a share of dense."""
        return self.expected / self.dense


def targets_of(budget: BudgetConfig, spec: ArchSpec, static: bool, dynamic: bool) -> DynamicTargets:
    """The limits of `budget.macs` and `budget.static`.

    Where `budget.static` is left out, pruning and skipping each take the same share: the resident model has the
    square root of the expected ratio (ours). Without skipping, the resident model is what `budget.macs` limits.

    Raises:
        UserError: for an amount that is none, is more than dense, or contradicts the other.
    """
    whole = target_of(budget, spec, "usdc")
    if not static:
        amount = None
    elif not dynamic:
        amount = whole.amount
    elif budget.static is None:
        amount = math.isqrt(whole.amount * whole.dense)
    else:
        amount = parse_amount(budget.static, whole.dense, "budget.static")
        if amount > whole.dense:
            raise UserError(f"budget.static: {budget.static} is more than the dense model's {whole.dense:,}")
        if amount < whole.amount:
            raise UserError(
                f"budget.static: {budget.static} is {amount:,}, less than the {whole.amount:,} of budget.macs, which "
                "would leave nothing to skip; set method.dynamic=false for pruning alone"
            )
    return DynamicTargets(whole.dense, whole.amount, amount, budget.convention)


def plan_of(spec: ArchSpec, targets: DynamicTargets, budget: BudgetConfig, names: tuple[str, ...]) -> Plan:
    """What pruning, and skipping by gates of `names` (none: no skipping), can reach; gates at their dearest."""
    costs = UnitCosts.of(spec, convention=budget.convention, method="usdc")
    target = Target("macs", targets.static or targets.dense, costs.dense, budget.convention, "usdc")
    pruned = reach_of(spec, costs, budget, target, prune=True, skip=False, share=None)
    gates = 2 * spec.depth * max((gate_macs(name, spec.embed_dim) for name in names), default=0)
    static = replace(pruned, least=pruned.least + gates)
    least = {key: value for key, value in vars(budget.min_keep).items() if key != "blocks"}
    details = {"min_keep": least, "round_to": budget.round_to, "gates": list(names)}
    if not names:
        return Plan("macs", targets.expected, static, details)
    further = {} if targets.static is None else {"static": Plan("macs", targets.static, static)}
    return Plan("macs", targets.expected, Reach(costs.fixed + gates, costs.dense, 1), details, further)


def gate_names(search: str) -> tuple[str, ...]:
    """The candidates of `method.gate_search`: all, or the one of `fixed:<name>`."""
    return tuple(GATES) if search == "nas" else (search.removeprefix("fixed:"),)
