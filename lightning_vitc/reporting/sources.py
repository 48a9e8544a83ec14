"""What `vitc report` compares: the networks of finished runs, and exported directories in each of their formats."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_vitc.artifacts import arch_json
from lightning_vitc.artifacts.formats import RUNNABLE
from lightning_vitc.config.sources import flat
from lightning_vitc.errors import UserError
from lightning_vitc.measuring.candidates import candidate_of, candidates_of, directories_of
from lightning_vitc.measuring.subjects import Candidate
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.finished import networks_of_run
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import FREE, RunDirectory
from lightning_vitc.runs.networks import Network
from lightning_vitc.runs.overview import runs_in
from lightning_vitc.schema import Experiment
from lightning_vitc.schema.split_names import WORDS, evaluated_on, split_of

OWN = ("seed", "name", "callbacks.width_sampling.seed")  # of a run, beside what `FREE` names
DECIDING = ("data.root", "data.classes", "data.on_error", "label")  # may change in a run, and tell two runs apart
BUDGETS = ("macs", "params", "latency_ms", "drop_blocks")


@dataclass
class Entry:
    """A row of the table, and what is timed for it: a candidate in one format."""

    row: dict[str, Any]
    candidate: Candidate
    form: str = "safetensors"


@dataclass
class Drawing:
    """An architecture to draw; see `architecture_figure`."""

    name: str
    spec: ArchSpec
    sources: Sequence[int] | None = None


@dataclass
class Source:
    """A run or an exported directory."""

    label: str
    entries: list[Entry]
    dense: ArchSpec
    drawings: list[Drawing]
    split: str  # in words
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: Path | None = None
    experiment: str = ""  # of a run
    settings: dict[str, str] = field(default_factory=dict)  # of a run, see `settings_of`


def sources_of(paths: Sequence[str]) -> list[Source]:
    """The sources at the paths, with labels that tell them apart; every folder of an export of several models is one.

    Of a folder of runs all are taken. What is not finished is left out with a warning, as long as something is left.

    Raises:
        UserError: where a path is neither a finished run nor an exported network with an accuracy.
    """
    paths = _finished([str(folder) for path in paths for folder in _directories(Path(path))])
    pairs = zip(paths, _labels(paths), strict=True)
    return [(_of_directory if (Path(path) / arch_json.ARCH).is_file() else _of_run)(path, name) for path, name in pairs]


def _directories(path: Path) -> list[Path]:
    """The runs of a folder that holds runs; else the exports of one of several; else the path itself."""
    known = any((path / name).is_file() for name in (arch_json.ARCH, arch_json.SEVERAL, "config.yaml"))
    return (not known and path.is_dir() and runs_in([str(path)])) or directories_of(path)


def _finished(paths: Sequence[str]) -> list[str]:
    """Without the runs that are not complete, unless there is nothing else."""
    open_ones = [path for path in paths if (Path(path) / "config.yaml").is_file()
                 and not RunDirectory(path).is_complete()]  # fmt: skip
    if len(open_ones) == len(paths):
        return [*paths]
    for path in open_ones:
        warnings.warn(f"{path}: left out: the run is not complete", stacklevel=2)
    return [path for path in paths if path not in open_ones]


def settings_of(experiment: Experiment) -> dict[str, str]:
    """All keys that decide a run's result, but the seed."""
    keys = flat(experiment.to_container())
    kept = [key for key in keys if key in DECIDING or (not key.startswith(FREE) and key not in OWN)]
    return {key: str(keys[key]) for key in kept}


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that are different, without `default`."""
    parts = [Path(path).resolve().parts for path in paths]
    for length in (2, 3, 4):
        labels = ["/".join(part for part in path[-length:] if part != "default") for path in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(Path(path)) for path in paths]


def _of_run(path: str, label: str) -> Source:
    pipeline, networks = networks_of_run(path)
    result = pipeline.directory.read_result()
    written = {row["name"]: row for row in [result["dense"], *result["rows"]] if row}
    trained = [network.module for network in networks if network.name == pipeline.dense_name]
    dense_name = f"{label} {pipeline.dense_name or 'dense'}"
    dense = candidate_of(dense_name, pipeline.dense_spec, trained[0] if trained else None)
    entries = []
    for network in networks:
        row = _row_of_run(label, pipeline, pipeline.experiment.label or result["method"], written[network.name])
        row["executed_macs"] = network.executed.get("executed_macs")
        made = candidate_of(f"{label} {network.name}", network.spec, network.module, dense, macs=network.macs,
                            data=pipeline.data)  # fmt: skip
        entries.append(Entry(row, dense if row["dense"] else made))
    facts = {"run": path, "method": result["method"], "seed": result["seed"],
             "data": pipeline.experiment.data.name, "evaluated on": evaluated_on(result),
             "training": f"{result['wall_seconds']:,.0f} s", **_environment(result["environment"])}  # fmt: skip
    drawings, metrics = _drawings(networks, pipeline.dense_spec), pipeline.directory.path / "metrics.jsonl"
    experiment = pipeline.experiment
    return Source(label, entries, pipeline.dense_spec, drawings, WORDS[split_of(result)], facts, metrics,
                  experiment.name, settings_of(experiment))  # fmt: skip


def _row_of_run(label: str, pipeline: Pipeline, method: str, written: dict[str, Any]) -> dict[str, Any]:
    budget, is_dense = vars(pipeline.experiment.budget), written["name"] == pipeline.dense_name
    if is_dense:
        asked = ""
    elif written.get("width") is not None:
        asked = f"width {written['width']:g}"
    else:
        asked = _in_words(budget)
    return {
        "run": label, "name": written["name"], "dense": is_dense, "method": method, "budget": asked,
        "share": written["macs"] / costs.macs(pipeline.dense_spec), "runtime": "pytorch",
        **{key: written[key] for key in ("macs", "params", "bytes", "top1", "top5")},
    }  # fmt: skip


def _of_directory(path: str, label: str) -> Source:
    document, (candidate, *others), name = arch_json.read_arch(path), candidates_of([path]), Path(path).name
    accuracy, formats = document.get("accuracy") or {}, document.get("formats") or {}
    if others or "top1" not in accuracy or not document.get("dense"):
        raise UserError(f"{path}: not one network with an accuracy and a dense model; name its run instead")
    dense, spec = ArchSpec.from_dict(document["dense"]), ArchSpec.from_dict(document["architecture"])
    asked, is_dense = document.get("budget") or {}, replace(spec, name=dense.name) == dense
    row = {"run": label, "dense": is_dense, "method": document.get("method"), "budget": _in_words(asked),
           "share": candidate.macs / costs.macs(dense), "macs": candidate.macs,
           "executed_macs": None if spec.is_gated else costs.executed_beside(spec).get("executed_macs"),
           "params": costs.params(spec)}  # fmt: skip
    reference = replace(candidate.reference, name=f"{label} dense")  # directories of one name are told apart
    candidate = replace(candidate, name=label, dense=reference)
    formats["safetensors"] = {"bytes": 4 * costs.params(spec), **formats.get("safetensors", {}), **accuracy}
    entries = [] if is_dense else _dense_entry(document, reference, dense, label)
    for form in RUNNABLE:
        if "top1" in (found := formats.get(form, {})):  # else only its logits were compared
            measured = {key: found[key] for key in ("bytes", "top1", "top5")}
            columns = {"name": f"{name}, {form}", "runtime": form}
            entries.append(Entry(row | columns | measured, candidate, form))
    facts = {"directory": path, "method": document.get("method"), "license": document.get("license") or "unknown"}
    provenance = document.get("provenance") or {}
    facts |= {"trained as": provenance.get("run"), **(_environment(provenance) if provenance else {})}
    return Source(label, entries, dense, [Drawing(name, spec)], WORDS[split_of(document)], facts)


def _dense_entry(document: dict[str, Any], reference: Candidate, dense: ArchSpec, label: str) -> list[Entry]:
    """Of what the exported network was cut from, where its accuracy is known."""
    accuracy = document.get("dense_accuracy") or {}
    if "top1" not in accuracy:
        return []
    params = costs.params(dense)
    row = {"run": label, "dense": True, "method": document.get("method"), "budget": "", "share": 1.0,
           "name": "dense", "macs": costs.macs(dense), "executed_macs": None, "params": params, "bytes": 4 * params,
           "runtime": "pytorch"}  # fmt: skip
    return [Entry(row | accuracy, reference)]


def _in_words(budget: dict[str, Any]) -> str:
    """`macs 50%`; `width 0.5`."""
    return ", ".join(f"{key} {budget[key]}" for key in ("width", *BUDGETS) if budget.get(key) is not None)


def _drawings(networks: Sequence[Network], dense: ArchSpec) -> list[Drawing]:
    """Networks with blocks that differ; of those that are only narrower all over, the one nearest to half the MACs."""
    uneven = [network for network in networks if len({*network.spec.blocks}) > 1 or network.spec.depth < dense.depth]
    even = [network for network in networks if network not in uneven and network.spec.blocks != dense.blocks]
    half = costs.macs(dense) / 2
    nearest = sorted(even, key=lambda network: abs(costs.macs(network.spec) - half))[:1]
    return [Drawing(network.name, network.spec, network.sources) for network in [*uneven, *nearest]]


def _environment(place: dict[str, Any]) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    return {key: str(place[key]) for key in ("device", "threads", "commit", "platform")} | {"versions": versions}
