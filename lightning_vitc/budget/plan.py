"""What a method can reach under a budget, and what it would build."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lightning_vitc.budget.target import shown
from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig


@dataclass(frozen=True)
class Sketch:
    """A network such as a method would make.

    Attributes:
        spec: the network.
        run: the share of its branches that run for the mean image.
        note: for a table, in a few words.
    """

    spec: ArchSpec
    run: float = 1.0
    note: str = ""


@dataclass
class Reachable:
    """Costs a method can reach, in what the budget counts: from the least to the most, in steps at most this wide."""

    least: int
    most: int
    step: int


@dataclass
class Plan:
    """The answer of `vitc plan`.

    Attributes:
        quantity: what the budget limits, `macs`, `params` or `latency_ms`.
        target: the limit; `None` for a method without a budget.
        reachable: what can be reached.
        details: what the method would build.
        further: plans of other limits that hold too, by their key in `budget:`.
        dense: what the dense network has, where that is measured.
        sketch: makes a network such as the method would; which parts it keeps is decided by training.
        refusal: why the target cannot be reached, where the two ends of what is do not tell.
    """

    quantity: str
    target: int | None
    reachable: Reachable
    details: dict[str, Any] = field(default_factory=dict)
    further: dict[str, "Plan"] = field(default_factory=dict)
    dense: int | None = None
    sketch: Callable[[], Sketch] | None = None
    refusal: str | None = None

    @property
    def limits(self) -> dict[str, "Plan"]:
        """This and the further ones, by their key in `budget:`."""
        return {self.quantity: self, **self.further}

    @property
    def satisfiable(self) -> bool:
        """Whether all targets can be reached."""
        return all(plan.reached for plan in self.limits.values())

    @property
    def reached(self) -> bool:
        """Whether this one's target, which is an upper limit, can be."""
        return self.refusal is None and (self.target is None or self.reachable.least <= self.target)

    def check(self, budget: BudgetConfig) -> None:
        """Refuse a target out of reach.

        Raises:
            UserError: naming what can be reached.
        """
        for key, plan in self.limits.items():
            if not plan.reached:
                raise UserError(plan.refusal or plan._out_of_reach(key, getattr(budget, key)))

    def _out_of_reach(self, key: str, asked: str | float | None) -> str:
        assert self.target is not None
        target, least, most = (
            shown(self.quantity, amount) for amount in (self.target, self.reachable.least, self.reachable.most)
        )
        what = f"{asked} is {target}" if asked is not None else f"by default {target}"
        return f"budget.{key}: {what}, out of reach; this method reaches {least} to {most}"


def plan_of_choices(choices: dict[str, ArchSpec], measure: Callable[[ArchSpec], int]) -> Plan:
    """The plan of a method that builds a fixed list of networks."""
    amounts = sorted(measure(spec) for spec in choices.values())
    gaps = [after - before for before, after in pairwise(amounts)]
    rows = [{"name": name, "macs": measure(spec), "params": costs.params(spec)} for name, spec in choices.items()]
    return Plan("macs", None, Reachable(amounts[0], amounts[-1], max(gaps, default=0)), {"networks": rows})
