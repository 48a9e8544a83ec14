"""What a method can reach for a model, and whether the budget is satisfiable, before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import nn

from lightning_vitc import costs, registry
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.budget.target import LATENCY, as_number, shown
from lightning_vitc.data.catalog import class_count
from lightning_vitc.errors import UserError
from lightning_vitc.latency.place import Place
from lightning_vitc.schema import BudgetConfig, Experiment
from lightning_vitc.starting_point import template
from lightning_vitc.training.optimizer import build_optimizer

TARGETS = ("macs", "params", "latency_ms", "static", "drop_blocks")  # keys of `budget:` that say how much


@dataclass(frozen=True)
class Typical:
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
class Reach:
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
        reach: what can be reached.
        details: what the method would build.
        further: plans of other limits that hold too, by their key in `budget:`.
        dense: what the dense network has, where that is measured.
        typical: makes a network such as the method would; which parts it keeps is decided by training.
    """

    quantity: str
    target: int | None
    reach: Reach
    details: dict[str, Any] = field(default_factory=dict)
    further: dict[str, "Plan"] = field(default_factory=dict)
    dense: int | None = None
    typical: Callable[[], Typical] | None = None

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
            if plan.target is not None and not plan._reached:
                target, least, most = (
                    shown(plan.quantity, amount) for amount in (plan.target, plan.reach.least, plan.reach.most)
                )
                text = getattr(budget, key)
                asked = plan.target if text is None else text
                raise UserError(
                    f"budget.{key}: {asked} is {target}, out of reach; this method reaches {least} to {most}"
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
        "dense": _dense(experiment, spec, plan),
        "target": None if plan.target is None else _targets(plan),
        "reachable": {
            f"{end}_{key}": as_number(part.quantity, value)
            for key, part in limits.items()
            for end, value in (("min", part.reach.least), ("max", part.reach.most), ("step", part.reach.step))
        },
        "satisfiable": plan.satisfiable,
        "plan": plan.details,
        **({} if plan.dense is None else {"place": Place.of(experiment).described()}),
    }


def budget_of(experiment: Experiment) -> dict[str, Any]:
    """What the budget asked for, in words and in numbers; empty for a method without one."""
    _, plan = _plan(experiment)
    if plan.target is None:
        return {}
    budget = experiment.budget
    asked = {key: value for key, value in vars(budget).items() if key in TARGETS and value is not None}
    place = Place.of(experiment).described() if budget.latency_ms is not None else {}
    targets = {f"target_{key}": amount for key, amount in _targets(plan).items()}
    return {**asked, "convention": budget.convention, **targets, **place}


def check_start(experiment: Experiment, measure: bool = True) -> None:
    """Refuse what would be refused in the course of the run, as far as it is known without images.

    Args:
        experiment: what is to run.
        measure: also budgets of latency, which are measured here; only where the run is going to be, by one process.

    Raises:
        UserError: for a model or a width that cannot be built, a budget out of reach, or an optimizer timm does
            not know.
    """
    if measure or experiment.budget.latency_ms is None:
        _, plan = _plan(experiment)
        plan.check(experiment.budget)
    build_optimizer(nn.Linear(1, 1), experiment.optimizer, total_steps=1, warmup_steps=0)


def _plan(experiment: Experiment) -> tuple[ArchSpec, Plan]:
    spec = template(experiment.model, class_count(experiment.data)).spec
    return spec, registry.load_method(experiment.method_name).plan(spec, experiment)


def _targets(plan: Plan) -> dict[str, int | float]:
    limits = {plan.quantity: plan, **plan.further}
    return {key: as_number(part.quantity, part.target) for key, part in limits.items() if part.target is not None}


def _dense(experiment: Experiment, spec: ArchSpec, plan: Plan) -> dict[str, int | float]:
    macs = costs.macs(spec, experiment.budget.convention, experiment.method_name)
    latency = {} if plan.dense is None else {LATENCY: as_number(LATENCY, plan.dense)}
    return {"macs": macs, "params": costs.params(spec), **latency}


def plan_of_choices(choices: dict[str, ArchSpec], measure: Callable[[ArchSpec], int]) -> Plan:
    """The plan of a method that builds a fixed list of networks."""
    amounts = sorted(measure(spec) for spec in choices.values())
    gaps = [after - before for before, after in pairwise(amounts)]
    rows = [{"name": name, "macs": measure(spec), "params": costs.params(spec)} for name, spec in choices.items()]
    return Plan("macs", None, Reach(amounts[0], amounts[-1], max(gaps, default=0)), {"networks": rows})
