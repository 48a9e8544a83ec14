"""A latency budget of a method that trains several networks at once: which of them keep to it."""

from collections.abc import Mapping
from itertools import pairwise

from lightning_vitc.budget.plan import Plan, Reachable, Sketch
from lightning_vitc.budget.target import LATENCY, as_number, latency_amount
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec


def plan_of_measured(choices: Mapping[str, ArchSpec], nanoseconds: Mapping[str, int], text: str | float) -> Plan:
    """The plan for networks that were measured: the largest within the budget is what it asks for.

    Args:
        choices: the networks by name.
        nanoseconds: theirs, and that of `dense`.
        text: the budget.

    Raises:
        UserError: for a budget that is none, or more than dense.
    """
    dense = nanoseconds["dense"]
    target = latency_amount(text, dense)
    rows = [
        {"name": name, "macs": costs.macs(spec), "params": costs.params(spec),
         LATENCY: as_number(LATENCY, nanoseconds[name])}
        for name, spec in choices.items()
    ]  # fmt: skip
    amounts = sorted(nanoseconds[name] for name in choices)
    reachable = Reachable(amounts[0], max(amounts[-1], dense), max((b - a for a, b in pairwise(amounts)), default=0))
    name = largest_within(choices, nanoseconds, target)
    sketch = None if name is None else (lambda: Sketch(choices[name], note=name))
    return Plan(LATENCY, target, reachable, {"within_budget": name, "networks": rows}, dense=dense, sketch=sketch)


def largest_within(choices: Mapping[str, ArchSpec], costs_of: Mapping[str, float], limit: float) -> str | None:
    """The name of the network with the most MACs whose cost is at most the limit."""
    within = [name for name in choices if costs_of[name] <= limit]
    return max(within, key=lambda name: costs.macs(choices[name]), default=None)
