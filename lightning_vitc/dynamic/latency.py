"""Gates held to a budget of latency: the expected one, measured image by image at batch size 1."""

import itertools
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lightning_vitc.budget.target import LATENCY, as_number
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.latency.by_image import share_by_image
from lightning_vitc.latency.fitting import fit
from lightning_vitc.latency.measuring import network_of
from lightning_vitc.networks.gates.skipping import noting_decisions
from lightning_vitc.networks.spec import ArchSpec

if TYPE_CHECKING:
    from lightning_vitc.dynamic.gate_shift import Moving
    from lightning_vitc.pipeline.pipeline import Pipeline

WORST = "worst_latency_ms"
IMAGES = 32  # that are timed one by one


def as_measured(run: "Pipeline", spec: ArchSpec, targets: DynamicTargets) -> DynamicTargets:
    """What a network may cost by the table's prediction, so that it is within the budget when it is measured.

    Args:
        run: whose record the measurement is.
        spec: of the network with its gates, all of whose branches run when it is measured.
        targets: the budget.
    """
    if targets.table is None:
        return targets
    return replace(targets, expected=_predicted(targets.expected, _slowness(run, spec, targets), spec, targets))


def within_latency(run: "Pipeline", moving: "Moving", targets: DynamicTargets) -> tuple[float, dict[str, Any]]:
    """Move the gates until the expected latency is measured to be within the budget.

    Returns:
        The shift of the gates, which are left there; and for the record the expected and the worst latency in
        milliseconds, and what was tried.
    """
    numbers = itertools.count()

    def moved(limit: int) -> tuple[float, tuple[bool, ...]]:
        return moving.within(_predicted(limit, slowness, spec, targets), spend=True), moving.which

    def measured(choice: tuple[float, tuple[bool, ...]]) -> int:  # by the first process, which the others go by
        name = f"gates_latency_{next(numbers)}"
        return int(run.record(name, lambda: {"shift": choice[0], "nanoseconds": _expected(run, moving)})["nanoseconds"])

    spec = moving.evaluation.network.spec
    slowness = _slowness(run, spec, targets)
    found = fit(targets.expected, moved, measured)
    shift, which = found.choice
    moving.choose(which)
    moving.to(shift)
    worst = _worst(run, spec)
    facts = {LATENCY: as_number(LATENCY, found.measured), WORST: as_number(LATENCY, worst)}
    return shift, {**facts, "latency": found.facts(targets.expected)}


def _predicted(measured: int, slowness: float, spec: ArchSpec, targets: DynamicTargets) -> int:
    """What is predicted for a measured latency; no less than what is left where everything is skipped."""
    return max(round(measured / slowness), targets.dynamic_costs(spec).fixed)


def _slowness(run: "Pipeline", spec: ArchSpec, targets: DynamicTargets) -> float:
    return _worst(run, spec) / targets.dynamic_costs(spec).worst


def _worst(run: "Pipeline", spec: ArchSpec) -> int:
    return int(run.record("worst_latency", lambda: {"nanoseconds": run.latency.now(spec)})["nanoseconds"])


def _expected(run: "Pipeline", moving: "Moving") -> int:
    """Nanoseconds of the mean validation image: what the run rates predict, corrected by what some images take."""
    evaluation, place = moving.evaluation, run.latency.meter.place
    network = deepcopy(evaluation.network).to(place.device)
    images, _ = next(iter(run.data.loader_of("validation")))
    images = images[:IMAGES].to(place.device)
    with torch.inference_mode(), noting_decisions(network) as decisions:
        network(images)
    ran = torch.stack(decisions, dim=1).unflatten(1, (-1, 2)).float()
    predicted = float(evaluation.budgeted.expected(ran).mean())
    measured = run.latency.dense * share_by_image(network, network_of(run.dense_spec, place), images, place)
    return max(round(evaluation.spent * measured / predicted), 1)
