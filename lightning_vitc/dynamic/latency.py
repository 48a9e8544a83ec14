"""Gates held to a budget of latency: the expected one, measured image by image at batch size 1."""

import itertools
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from lightning_vitc.budget.target import LATENCY, as_number
from lightning_vitc.dynamic.skipping import noting_decisions
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.latency.by_image import share_by_image
from lightning_vitc.latency.fitting import fit
from lightning_vitc.latency.measuring import network_of

if TYPE_CHECKING:
    from lightning_vitc.dynamic.moving import Moving
    from lightning_vitc.training.pipeline import Pipeline

WORST = "worst_latency_ms"
IMAGES = 32  # that are timed one by one


def within_latency(run: "Pipeline", moving: "Moving", targets: DynamicTargets) -> tuple[float, dict[str, Any]]:
    """Move the gates until the expected latency is measured to be within the budget.

    Returns:
        The shift of the gates, which are left there; and for the record the expected and the worst latency in
        milliseconds, and what was tried.
    """
    numbers = itertools.count()

    def measured(shift: float) -> int:  # by the first process alone, which the others go by
        name = f"gates_latency_{next(numbers)}"
        return int(run.record(name, lambda: {"shift": shift, "nanoseconds": _expected(run, moving)})["nanoseconds"])

    found = fit(targets.expected, moving.close_to, measured)
    moving.to(found.choice)
    worst = run.record("worst_latency", lambda: {"nanoseconds": run.latency.now(moving.evaluation.network.spec)})
    facts = {LATENCY: as_number(LATENCY, found.measured), WORST: as_number(LATENCY, worst["nanoseconds"])}
    return found.choice, {**facts, "latency": found.facts(targets.expected)}


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
