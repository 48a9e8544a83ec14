"""What a method can reach for a model, and whether the budget is satisfiable, before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import nn

from lightning_vitc import costs, registry
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.data.catalog import class_count
from lightning_vitc.errors import UserError
from lightning_vitc.schema import BudgetConfig, Experiment
from lightning_vitc.starting_point import template
from lightning_vitc.training.optimizer import build_optimizer

TARGETS = ("macs", "params", "static", "drop_blocks")  # keys of `budget:` that say how much


@dataclass
class Reach:
    """Costs a method can reach, in MACs or parameters: from the least to the most, in steps at most this wide."""

    least: int
    most: int
    step: int


@dataclass
class Plan:
    """The answer of `vitc plan`.

    Attributes:
        quantity: what the budget limits, `macs` or `params`.
        target: the limit; `None` for a method without a budget.
        reach: what can be reached.
        details: what the method would build.
        further: plans of other limits that hold too, by their key in `budget:`.
    """

    quantity: str
    target: int | None
    reach: Reach
    details: dict[str, Any] = field(default_factory=dict)
    further: dict[str, "Plan"] = field(default_factory=dict)

    @property
    def satisfiable(self) -> bool:
        """Whether all targets can be reached."""
        return self._reached and all(plan.satisfiable for plan in self.further.values())

    @property
    def _reached(self) -> bool:
        return self.target is None or self.reach.least <= self.target <= self.reach.most

    def check(self, budget: BudgetConfig) -> None:
        """Refuse a target out of reach.

        Raises:
            UserError: naming what can be reached.
        """
        for key, plan in {self.quantity: self, **self.further}.items():
            if not plan._reached:
                text = getattr(budget, key)
                raise UserError(
                    f"budget.{key}: {plan.target if text is None else text} is {plan.target:,}, out of reach; "
                    f"this method reaches {plan.reach.least:,} to {plan.reach.most:,}"
                )


def plan_experiment(experiment: Experiment) -> dict[str, Any]:
    """The JSON document of `vitc plan`."""
    spec, plan = _plan(experiment)
    convention = experiment.budget.convention
    limits = {plan.quantity: plan, **plan.further}
    return {
        "method": experiment.method_name,
        "model": spec.name,
        "convention": convention,
        "dense": {"macs": costs.macs(spec, convention, experiment.method_name), "params": costs.params(spec)},
        "target": None if plan.target is None else {key: part.target for key, part in limits.items()},
        "reachable": {
            f"{end}_{key}": value
            for key, part in limits.items()
            for end, value in (("min", part.reach.least), ("max", part.reach.most), ("step", part.reach.step))
        },
        "satisfiable": plan.satisfiable,
        "plan": plan.details,
    }


def budget_of(experiment: Experiment) -> dict[str, Any]:
    """What the budget asked for, in words and in numbers; empty for a method without one."""
    _, plan = _plan(experiment)
    if plan.target is None:
        return {}
    budget = experiment.budget
    asked = {key: value for key, value in vars(budget).items() if key in TARGETS and value is not None}
    targets = {f"target_{key}": part.target for key, part in {plan.quantity: plan, **plan.further}.items()}
    return {**asked, "convention": budget.convention, **targets}


def check_start(experiment: Experiment) -> None:
    """Refuse what would be refused in the course of the run, as far as it is known without images.

    Raises:
        UserError: for a model or a width that cannot be built, a budget out of reach, or an optimizer timm does
            not know.
    """
    _, plan = _plan(experiment)
    plan.check(experiment.budget)
    build_optimizer(nn.Linear(1, 1), experiment.optimizer, total_steps=1, warmup_steps=0)


def _plan(experiment: Experiment) -> tuple[ArchSpec, Plan]:
    spec = template(experiment.model, class_count(experiment.data)).spec
    return spec, registry.load_method(experiment.method_name).plan(spec, experiment)


def plan_of_choices(choices: dict[str, ArchSpec], measure: Callable[[ArchSpec], int]) -> Plan:
    """The plan of a method that builds a fixed list of networks."""
    amounts = sorted(measure(spec) for spec in choices.values())
    gaps = [after - before for before, after in pairwise(amounts)]
    rows = [{"name": name, "macs": measure(spec), "params": costs.params(spec)} for name, spec in choices.items()]
    return Plan("macs", None, Reach(amounts[0], amounts[-1], max(gaps, default=0)), {"networks": rows})
