"""The networks of a finished run, to be evaluated, exported or compared."""

import json
import warnings
from pathlib import Path

from lightning_vitc.config import registry
from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import as_ratio
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.class_record import classes_of_run
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.networks import Network, Stored, store, stored


def networks_of_run(run: str | Path, overrides: list[str] | None = None) -> tuple[Pipeline, list[Network]]:
    """The networks of a finished run's table, with the weights that were selected.

    Raises:
        UserError: where the path is no run, or the run or a stage of it is not complete.
    """
    directory = RunDirectory(run).must_be_complete()
    experiment = directory.experiment(overrides or [])
    classes = classes_of_run(directory, experiment.data, evaluated=True)
    pipeline = Pipeline(experiment, directory, read_only=True, classes=classes)
    found = _stored(directory.path)
    if found is None:
        registry.load_method(experiment.method_name).pipeline(pipeline)
    else:
        pipeline.networks, pipeline.variants = found.networks, found.variants
        pipeline.dense_name = found.facts["dense_name"]
    return pipeline, pipeline.networks


def _stored(path: Path) -> Stored | None:
    """What the run holds, or `None` where its checkpoints must do: of an earlier version, or damaged."""
    try:
        return stored(path)
    except UserError as error:
        warnings.warn(f"{error}; the checkpoints of the run are read instead", stacklevel=3)
        return None


def store_networks(pipeline: Pipeline) -> None:
    """Write the networks of a run that ends, and what they need to be used, into its directory."""
    facts = {
        "method": pipeline.experiment.method_name,
        "dense_name": pipeline.dense_name,
        "dense": json.loads(pipeline.dense_spec.to_json()),
        "preprocessing": pipeline.data.preprocessing,
        "classes": list(pipeline.data.classes),
    }
    store(pipeline.directory.path, pipeline.networks, pipeline.variants, facts)


def pick(pipeline: Pipeline, width: str | None, run: str | Path) -> Network:
    """The network of a width, or the largest of those that the method made; within the budget, if it is a latency.

    Raises:
        UserError: where the run has no such width.
    """
    made = [network for network in pipeline.networks if network.name != pipeline.dense_name]
    if width is None:
        return max(
            pipeline.latency.within_budget(made or pipeline.networks), key=lambda network: costs.macs(network.spec)
        )
    sized = [network for network in made if network.columns.get("width") is not None]
    for network in sized:
        if as_ratio(network.columns["width"]) == as_ratio(width):
            return network
    known = ", ".join(f"{network.columns['width']:g}" for network in sized) or "none"
    raise UserError(f"--width: {run} has no width {width}; it has {known}")
