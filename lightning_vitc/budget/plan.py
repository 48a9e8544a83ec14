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
    """

    quantity: str
    target: int | None
    reachable: Reachable
    details: dict[str, Any] = field(default_factory=dict)
    further: dict[str, "Plan"] = field(default_factory=dict)
    dense: int | None = None
    sketch: Callable[[], Sketch] | None = None

    @property
    def satisfiable(self) -> bool:
        """Whether all targets can be reached."""
        return self._reached and all(plan.satisfiable for plan in self.further.values())

    @property
    def _reached(self) -> bool:
        return self.target is None or self.reachable.least <= self.target <= self.reachable.most

    def check(self, budget: BudgetConfig) -> None:
        """Refuse a target out of reach.

        Raises:
            UserError: naming what can be reached.
        """
        for key, plan in {self.quantity: self, **self.further}.items():
            if plan.target is not None and not plan._reached:
                target, least, most = (
                    shown(plan.quantity, amount) for amount in (plan.target, plan.reachable.least, plan.reachable.most)
                )
                text = getattr(budget, key)
                asked = plan.target if text is None else text
                raise UserError(
                    f"budget.{key}: {asked} is {target}, out of reach; this method reaches {least} to {most}"
                )


def plan_of_choices(choices: dict[str, ArchSpec], measure: Callable[[ArchSpec], int]) -> Plan:
    """The plan of a method that builds a fixed list of networks."""
    amounts = sorted(measure(spec) for spec in choices.values())
    gaps = [after - before for before, after in pairwise(amounts)]
    rows = [{"name": name, "macs": measure(spec), "params": costs.params(spec)} for name, spec in choices.items()]
    return Plan("macs", None, Reachable(amounts[0], amounts[-1], max(gaps, default=0)), {"networks": rows})
