"""The networks of a finished run, to be evaluated, exported or compared."""

from pathlib import Path

from lightning_vitc import costs, registry
from lightning_vitc.architecture import as_ratio
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.training.class_record import classes_of_run
from lightning_vitc.training.pipeline import Network, Pipeline
from lightning_vitc.training.run_directory import RunDirectory


def networks_of_run(run: str | Path, overrides: list[str] | None = None) -> tuple[Pipeline, list[Network]]:
    """The networks of a finished run's table, with the weights that were selected.

    Raises:
        UserError: where the path is no run, or the run or a stage of it is not complete.
    """
    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise UserError(f"{run}: not a run directory: it has no config.yaml")
    if not directory.is_complete():
        raise UserError(f"{run}: the run is not complete; continue it with 'vitc train'")
    experiment = load_experiment(str(directory.config), overrides or [], check_files=False)
    classes = classes_of_run(directory, experiment.data, evaluated=True)
    pipeline = Pipeline(experiment, directory, read_only=True, classes=classes)
    registry.load_method(experiment.method_name).pipeline(pipeline)
    return pipeline, pipeline.networks


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
