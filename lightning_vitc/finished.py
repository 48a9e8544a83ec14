"""What a finished run is used for: its networks, evaluated or exported."""

from pathlib import Path
from typing import Any

from lightning_vitc import artifact, costs, registry
from lightning_vitc.architecture import ArchSpec, as_ratio
from lightning_vitc.config import experiment_of, load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.evaluation import evaluate
from lightning_vitc.pipeline import Network, Pipeline
from lightning_vitc.results import environment
from lightning_vitc.run_directory import RunDirectory
from lightning_vitc.trainers import test_trainer


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
    pipeline = Pipeline(experiment, directory, read_only=True)
    registry.load_method(experiment.method_name).pipeline(pipeline)
    return pipeline, pipeline.networks


def pick(pipeline: Pipeline, width: str | None, run: str | Path) -> Network:
    """The network of a width, or the largest of those that the method made.

    Raises:
        UserError: where the run has no such width.
    """
    made = [network for network in pipeline.networks if network.name != pipeline.dense_name]
    if width is None:
        return max(made or pipeline.networks, key=lambda network: costs.macs(network.spec))
    sized = [network for network in made if network.columns.get("width") is not None]
    for network in sized:
        if as_ratio(network.columns["width"]) == as_ratio(width):
            return network
    known = ", ".join(f"{network.columns['width']:g}" for network in sized) or "none"
    raise UserError(f"--width: {run} has no width {width}; it has {known}")


def evaluate_source(source: str, width: str | None, split: str, overrides: list[str]) -> list[dict[str, Any]]:
    """Rows with `name`, `macs`, `params`, `top1` and `top5` of a run's networks, or of an exported model."""
    if (Path(source) / artifact.ARCH).is_file():
        if width is not None:
            raise UserError(f"--width: {source} is one exported network; leave the option out")
        return [_evaluate_exported(source, split, overrides)]
    pipeline, networks = networks_of_run(source, overrides)
    chosen = networks if width is None else [pick(pipeline, width, source)]
    return _rows(pipeline, chosen, split)


def export(run: str, out: str, width: str | None) -> str:
    """Write one network of a finished run; returns its name."""
    pipeline, _ = networks_of_run(run)
    network = pick(pipeline, width, run)
    result = pipeline.directory.read_result()
    rows = [row for row in [result["dense"], *result["rows"]] if row and row["name"] == network.name]
    facts = {
        "method": pipeline.experiment.method_name,
        "budget": {key: network.columns[key] for key in ("width",) if key in network.columns},
        "accuracy": {key: rows[0][key] for key in ("top1", "top5")} if rows else {},
        "preprocessing": pipeline.data.preprocessing,
        "experiment": pipeline.experiment.to_container(),
        "provenance": environment(result["environment"]["device"]) | {"run": str(run), "seed": result["seed"]},
    }
    artifact.save(network.module, out, facts)
    return network.name


def _evaluate_exported(source: str, split: str, overrides: list[str]) -> dict[str, Any]:
    written = artifact.read_arch(source).get("experiment")
    if not isinstance(written, dict):
        raise UserError(f"{source}: {artifact.ARCH} names no experiment, whose data to evaluate on")
    experiment = experiment_of(written, overrides, check_files=False)
    model = artifact.load(source)
    pipeline = Pipeline(experiment, RunDirectory(source))
    return _rows(pipeline, [Network(Path(source).name, model, ArchSpec.of(model), {})], split)[0]


def _rows(pipeline: Pipeline, networks: list[Network], split: str) -> list[dict[str, Any]]:
    modules = {network.name: network.module for network in networks}
    loader = pipeline.data.loader_of(split)
    accuracy = evaluate(test_trainer(pipeline.experiment), modules, pipeline.data.num_classes, loader)
    return [
        {"name": network.name, "macs": costs.macs(network.spec), "params": costs.params(network.spec),
         **accuracy[network.name]}
        for network in networks
    ]  # fmt: skip
