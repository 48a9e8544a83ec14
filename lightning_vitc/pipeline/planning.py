"""What a method can reach for a model, and whether the budget is satisfiable, before anything is trained."""

from dataclasses import replace
from typing import Any

from torch import nn

from lightning_vitc.budget.plan import Plan
from lightning_vitc.budget.target import LATENCY, as_number
from lightning_vitc.config import registry
from lightning_vitc.data.catalog import class_count
from lightning_vitc.latency.place import Place
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.initial_network import template
from lightning_vitc.schema import Experiment, is_directory_name
from lightning_vitc.training.optimizer import build_optimizer

TARGETS = ("macs", "params", "latency_ms", "static", "drop_blocks")  # keys of `budget:` that say how much


def planned(experiment: Experiment) -> tuple[ArchSpec, Plan]:
    """The dense network, and what the method can make of it.

    Raises:
        UserError: for a model that cannot be built, or a budget that is none.
    """
    spec = template(experiment.model, class_count(experiment.data)).spec
    return spec, registry.load_method(experiment.method_name).plan(spec, experiment)


def document_of(experiment: Experiment, spec: ArchSpec, plan: Plan) -> dict[str, Any]:
    """The JSON document of `vitc plan`; `satisfiable` where all targets are `within_reach`."""
    convention = experiment.budget.convention
    return {
        "method": experiment.method_name,
        "model": experiment.model.name if is_directory_name(experiment.model.name) else spec.name,
        "convention": convention,
        "dense": _dense(experiment, spec, plan),
        "target": None if plan.target is None else _targets(plan),
        "reachable": {
            f"{end}_{key}": as_number(part.quantity, value)
            for key, part in plan.limits.items()
            for end, value in (
                ("min", part.reachable.least),
                ("max", part.reachable.most),
                ("step", part.reachable.step),
            )
        },
        "satisfiable": plan.satisfiable,
        "within_reach": {key: part.reached for key, part in plan.limits.items() if part.target is not None},
        "plan": plan.details,
        **({} if plan.dense is None else {"place": Place.of(experiment).described()}),
    }


def budget_of(experiment: Experiment) -> dict[str, Any]:
    """What the budget asked for, in words and in numbers; empty for a method without one."""
    _, plan = planned(experiment)
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
        _, plan = planned(experiment)
        plan.check(experiment.budget)
    build_optimizer(nn.Linear(1, 1), replace(experiment.optimizer, layer_decay=None), total_steps=1, warmup_steps=0)


def _targets(plan: Plan) -> dict[str, int | float]:
    return {key: as_number(part.quantity, part.target) for key, part in plan.limits.items() if part.target is not None}


def _dense(experiment: Experiment, spec: ArchSpec, plan: Plan) -> dict[str, int | float]:
    macs = costs.macs(spec, experiment.budget.convention, experiment.method_name)
    latency = {} if plan.dense is None else {LATENCY: as_number(LATENCY, plan.dense)}
    return {"macs": macs, "params": costs.params(spec), **latency}
