"""`vitc plan --compare`: what every method would build for one model and budget, before anything is trained."""

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_vitc.budget.plan import Sketch
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.target import LATENCY, Target, as_number, target_of
from lightning_vitc.config import experiment_of, registry
from lightning_vitc.config.sources import experiment_folders, read_with_bases
from lightning_vitc.data.catalog import class_count
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.targets import gate_names
from lightning_vitc.errors import UserError
from lightning_vitc.latency.meter import Meter
from lightning_vitc.latency.table import LatencyTable, points_of
from lightning_vitc.latency.widths import largest_within
from lightning_vitc.methods.scala import widths_of
from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import MLP
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.initial_network import template
from lightning_vitc.schema import Experiment

METHODS = {"uvc": "UVC", "usdc": "USDC", "dcvit": "DC-ViT", "scala": "Scala"}
SECTIONS = ("model", "budget", "threads")  # keys that all methods share


def compare(model: str, overrides: Sequence[str], latency: bool = False) -> dict[str, Any]:
    """What each method would build.

    Args:
        model: a timm ViT.
        overrides: `key=value` of `model`, `budget` and `threads`.
        latency: also measure latencies that are not known yet where the budget does not need them.

    Returns:
        `model`, `budget`, `dense`, the `place` of latencies (`None` without) and, a method each, `rows` with `method`,
        `reached`, `note`, and for those that reach the budget `blocks`, `heads` and `hidden` (the least and the most of
        a block), `value_dims` (of a head, the mean), `embed_dim`, `macs`, `params` and `latency_ms`.

    Raises:
        UserError: for a wrong key or model, or where no method reaches the budget.
    """
    for key in (override.partition("=")[0] for override in overrides):
        if key.partition(".")[0] not in SECTIONS:
            raise UserError(f"{key}: --compare takes keys of {', '.join(SECTIONS)}; of its own a method has defaults")
    comparison = Comparison.of(model, overrides, latency)
    rows = [comparison.row(method) for method in METHODS]
    target = comparison.target
    if not any(row["reached"] for row in rows):
        raise UserError(f"no method reaches the budget; {METHODS['uvc']}: {rows[0]['note']}")
    return {
        "model": comparison.spec.name, "budget": {target.quantity: as_number(target.quantity, target.amount)},
        "dense": comparison.columns(Sketch(comparison.spec)),
        "place": None if comparison.table is None else comparison.meter.place.described(), "rows": rows,
    }  # fmt: skip


@dataclass
class Comparison:
    """A dense network, a budget, and what is known of latencies."""

    model: str
    overrides: Sequence[str]
    spec: ArchSpec
    target: Target
    meter: Meter
    measures: bool  # what is not known
    table: LatencyTable | None

    @classmethod
    def of(cls, model: str, overrides: Sequence[str], latency: bool) -> "Comparison":
        """Measures the table where that is asked for."""
        experiment = experiment_for("uvc", model, overrides)
        spec = template(experiment.model, class_count(experiment.data)).spec
        budget = experiment.budget
        if budget.drop_blocks is not None:
            raise UserError("budget.drop_blocks: dcvit alone knows it; give budget.macs, params or latency_ms")
        meter, measures = Meter.of(experiment, spec), latency or budget.latency_ms is not None
        gates = gate_names("nas")
        priced = measures or all(stack.attn for stack in stacks_of(spec))  # of convolutions there is no table
        found = _latencies(meter, points_of(spec, gates), measures) if priced else None
        table = None if found is None else LatencyTable.of(spec, found, gates)
        return cls(model, overrides, spec, target_of(budget, spec, "uvc", table), meter, measures, table)

    def row(self, method: str) -> dict[str, Any]:
        """What one method would build; why not, where it cannot."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                sketch, latency = self._scala() if method == "scala" else (self._sketch(method), None)
            except UserError as error:
                return {"method": method, "reached": False, "note": str(error)}
        notes = [sketch.note, *(str(warning.message) for warning in warned if warning.category is UserWarning)]
        note = "; ".join(note for note in notes if note)
        return {"method": method, "reached": True, "note": note, **self.columns(sketch, latency)}

    def columns(self, sketch: Sketch, latency: int | None = None) -> dict[str, Any]:
        """The numbers of a network; its latency is that of the table, unless it was measured."""
        spec = sketch.spec
        widths = list(spec.widths)
        attns = [branch for _, _, branch in spec.branches() if branch.query]
        if latency is None and self.table is not None:
            latency = round(_mean(sketch, self.table.measure))
        return {
            "blocks": spec.depth, "attentions": len(attns), "heads": _ends([attn.groups for attn in attns]),
            "value_dims": round(statistics.fmean([dim for attn in attns for dim in attn.pieces] or [0]), 1),
            "hidden": _ends([branch.width for _, position, branch in spec.branches() if position == MLP]),
            "embed_dim": widths[0] if len(widths) == 1 else widths,
            "macs": round(_mean(sketch, costs.macs)), "params": costs.params(spec),
            LATENCY: None if latency is None else as_number(LATENCY, latency),
        }  # fmt: skip

    def _sketch(self, method: str) -> Sketch:
        experiment = experiment_for(method, self.model, self.overrides)
        plan = registry.load_method(method).plan(self.spec, experiment)
        plan.check(experiment.budget)
        return plan.sketch()

    def _scala(self) -> tuple[Sketch, int | None]:
        """The largest width within the budget, and its latency where that is measured."""
        widths = widths_of(self.spec, experiment_for("scala", self.model, self.overrides).method)
        latency = _latencies(self.meter, widths, self.measures)
        of_budget = latency if self.target.table is not None else None
        amounts = of_budget or {name: self.target.measure(spec) for name, spec in widths.items()}
        name = largest_within(widths, amounts, self.target.amount)
        if name is None:
            least = self.target.shown(min(amounts[name] for name in widths))
            raise UserError(f"the smallest width needs {least}")
        return Sketch(widths[name], note=name.replace("_", " ")), None if latency is None else latency[name]


def experiment_for(method: str, model: str, overrides: Sequence[str]) -> Experiment:
    """A method with its defaults, on random images of ImageNet's classes; Scala takes no budget but a latency."""
    files = (folder / "base" / f"{method}.yaml" for folder in experiment_folders())
    written = read_with_bases(next(file for file in files if file.is_file()))
    written |= {"name": "compare", "model": {"name": model}, "data": {**written.get("data", {}), "name": "fake"},
                "optimizer": {"lr": 1e-3}, "trainer": {"max_epochs": 1}, "budget": {}}  # fmt: skip
    if method == "scala":
        overrides = [text for text in overrides if not text.startswith("budget.")]
    return experiment_of(written, overrides, check_files=False)


def _latencies(meter: Meter, specs: Mapping[str, ArchSpec], measures: bool) -> dict[str, int] | None:
    return meter.remembered(specs)["nanoseconds"] if measures else meter.known(specs)


def _mean(sketch: Sketch, measure: Any) -> float:
    """Over the images, of which the branches with gates run for a share."""
    parts = DynamicCosts.of(sketch.spec, measure)
    return parts.fixed + sketch.run * (parts.worst - parts.fixed)


def _ends(values: Sequence[int]) -> list[int]:
    """The least and the most."""
    return [min(values), max(values)] if values else []
