"""The end of a run with gates: expected cost within the budget, run rates by block and class, pictures."""

from typing import TYPE_CHECKING, Any

from lightning_vitc.budget.target import LATENCY, as_number
from lightning_vitc.dynamic.gate_shift import Moving
from lightning_vitc.dynamic.latency import WORST, within_latency
from lightning_vitc.dynamic.pictures import write_pictures
from lightning_vitc.dynamic.rate_evaluation import RateEvaluation
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.gates.attaching import lower

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline


def settled(run: "Pipeline", network: Backbone, targets: DynamicTargets) -> dict[str, Any]:
    """Hold the network to its expected budget on the validation split, once; and the columns of its row.

    A network whose mean image is beyond the budget has gates moved by the same amount until it is within (ours:
    L_res only pulls towards the target); one that is held to a latency also runs more, where it is below. What was
    measured is `gates.json`, accuracy before and after included.
    """
    evaluation = None
    if not run.read_only and not (run.directory.path / "gates.json").exists():  # by all processes together
        evaluation = RateEvaluation(network, targets)
        moving = Moving(run, evaluation)
        latency: dict[str, Any] = {}
        if targets.table is None:
            shift = moving.within(targets.expected)
        else:
            shift, latency = within_latency(run, moving, targets)
        if run.processes.rank == 0:  # before the record, which says that all of this is done
            write_pictures(run, evaluation.rates, evaluation.extremes)
    facts = run.record("gates", lambda: _facts(moving, shift, targets) | latency)
    if evaluation is None:
        lower(network, facts["shift"], facts.get("moved_gates"))
    return {key: facts[key] for key in ("expected_macs", "worst_macs", LATENCY, WORST) if key in facts}


def _facts(moving: Moving, shift: float, targets: DynamicTargets) -> dict[str, Any]:
    evaluation = moving.evaluation
    spec = evaluation.network.spec
    by_class = [None if rates.isnan().any() else rates.tolist() for rates in evaluation.rates["by_class"]]
    return {
        "shift": shift,
        "moved_gates": list(moving.which),
        "val_top1": {"trained": moving.top1[0.0], "moved": moving.top1[shift]},
        "expected_macs": round(evaluation.expected),
        "worst_macs": evaluation.costs.worst,
        f"target_{targets.quantity}": as_number(targets.quantity, targets.expected),
        "networks": [list(block.gates) for block in spec.blocks],
        "run_rates": evaluation.rates["all"].tolist(),
        "run_rates_by_class": by_class,
    }
