"""`vitc evaluate --weights`: a file of weights in the network of an experiment, such as Scala's authors released."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_vitc.config import load_experiment
from lightning_vitc.data.catalog import check_root
from lightning_vitc.errors import UserError
from lightning_vitc.files.checkpoint import read_settings
from lightning_vitc.measuring.evaluating import Candidate, rows_of
from lightning_vitc.methods.scala import Scala, width_name
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.spec import ArchSpec, as_ratio
from lightning_vitc.pipeline.initial_network import starting_network
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import Experiment

OF_RELEASED_SCALA = {"s": "smallest_ratio", "l": "largest_ratio"}  # keys of `method:` and what its authors call them


def evaluate_weights(
    weights: str, experiment_name: str, width: str | None, split: str, overrides: list[str]
) -> list[dict[str, Any]]:
    """Rows as of `evaluate_source`.

    Args:
        weights: the file.
        experiment_name: whose network and data.
        width: of a Scala experiment, any that comes out whole; default: all of its table.
        split: `validation` or `test`.
        overrides: of the experiment.

    Raises:
        UserError: where the weights are not those of the network, or were trained for other slices.
    """
    experiment = load_experiment(experiment_name, overrides, check_files=False)
    _must_be_sliced_as_trained(weights, experiment)
    check_root(experiment.data)
    pipeline = Pipeline(experiment, RunDirectory.of(experiment), read_only=True)
    network = starting_network(replace(experiment.model, pretrained=weights), pipeline.data.num_classes)
    name = Path(weights).name
    if experiment.method_name == "scala":
        scala = Scala(network, experiment.optimizer, None, experiment.method)
        widths = experiment.method.tested_widths() if width is None else [as_ratio(width)]
        candidates = [
            _candidate(width_name(each), network, scala.evaluated(each), {"width": float(each)}) for each in widths
        ]
    elif width is not None:
        raise UserError(f"--width: {experiment.name} has one network; leave the option out")
    else:
        candidates = [_candidate(name, network, None, {})]
    return rows_of(weights, split, pipeline, candidates)


def _candidate(name: str, network: Backbone, kept: Kept | None, columns: dict[str, Any]) -> Candidate:
    small = compact(network, kept).float()
    spec = ArchSpec.of(small)
    return Candidate(name, small, spec, costs.macs(spec), columns)


def _must_be_sliced_as_trained(weights: str, experiment: Experiment) -> None:
    """Refuse other slices than those of Scala's released code, which leaves its settings beside the weights."""
    trained, keys = read_settings(weights), experiment.method
    if "smallest_ratio" not in trained:
        return
    if experiment.method_name != "scala" or keys.slice != "released":
        raise UserError(
            f"--weights: {weights} was trained by Scala's released code; evaluate it as an experiment of scala with "
            "method.slice=released"
        )
    for key, theirs in OF_RELEASED_SCALA.items():
        if theirs in trained and trained[theirs] != getattr(keys, key):
            raise UserError(f"method.{key}: {getattr(keys, key):g}, but {weights} was trained with {trained[theirs]}")
