"""`vitc report`: one page over finished runs: a table, accuracy over MACs and latency, architectures, curves."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from lightning_vitc import costs
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.architecture_figure import architecture_figure
from lightning_vitc.benchmark import benchmark, device_name
from lightning_vitc.candidates import candidate_of
from lightning_vitc.curves import curves_figure, read_curves
from lightning_vitc.directory_swap import swapped_in
from lightning_vitc.errors import UserError
from lightning_vitc.finished import networks_of_run
from lightning_vitc.front import Point, front_figure
from lightning_vitc.pipeline import Network, Pipeline
from lightning_vitc.report_page import Picture, Section, page
from lightning_vitc.results import environment, split_of
from lightning_vitc.subjects import Candidate, Settings

DOCUMENT, PAGE = "report.json", "index.html"
CSS_PIXELS = 96  # an inch


@dataclass
class _Run:
    """A finished run: its networks as rows, and what they are."""

    label: str
    pipeline: Pipeline
    result: dict[str, Any]
    rows: list[dict[str, Any]]
    networks: list[Network]
    candidates: list[Candidate]


def report(runs: Sequence[str], out: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure the runs' networks and write the page, its pictures, `report.json` and TensorBoard's events.

    Args:
        runs: finished run directories.
        out: a new directory, or an earlier report, which is replaced.
        settings: of the latency; the first batch size is the one in the table.

    Returns:
        The rows of the table.

    Raises:
        UserError: where a run is not finished, or the directory holds something else.
    """
    target = Path(out)
    if target.exists() and not (target / DOCUMENT).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--out: {out} is not empty and no report; name another directory")
    found = [_run(path, label) for path, label in zip(runs, _labels(runs), strict=True)]
    _measure(found, settings)
    rows = [row for run in found for row in run.rows]
    try:
        with swapped_in(target) as folder:
            _write(found, rows, folder, settings)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror or error})") from None
    return rows


def _labels(runs: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart, without `default`."""
    parts = [Path(run).resolve().parts for run in runs]
    for length in (2, 3, 4):
        labels = ["/".join(part for part in path[-length:] if part != "default") for path in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(Path(run)) for run in runs]


def _run(path: str, label: str) -> _Run:
    pipeline, networks = networks_of_run(path)
    result = pipeline.directory.read_result()
    written = {row["name"]: row for row in [result["dense"], *result["rows"]] if row}
    dense_spec = pipeline.dense_spec
    modules = {network.name: network for network in networks}
    trained = modules[pipeline.dense_name].module if pipeline.dense_name in modules else None
    dense = candidate_of(f"{label} {pipeline.dense_name or 'dense'}", dense_spec, trained)
    rows, candidates = [], []
    for network in networks:
        row = written[network.name]
        is_dense = network.name == pipeline.dense_name
        rows.append({
            "run": label, "name": network.name, "dense": is_dense, "method": result["method"],
            "budget": _budget(pipeline, row), "share": row["macs"] / costs.macs(dense_spec),
            **{key: row[key] for key in ("macs", "params", "bytes", "top1", "top5")},
        })  # fmt: skip
        made = candidate_of(f"{label} {network.name}", network.spec, network.module, dense)
        candidates.append(dense if is_dense else made)
    return _Run(label, pipeline, result, rows, networks, candidates)


def _budget(pipeline: Pipeline, row: dict[str, Any]) -> str:
    """What the network had to fit, in words."""
    if row["name"] == pipeline.dense_name:
        return ""
    if row.get("width") is not None:
        return f"width {row['width']:g}"
    asked = vars(pipeline.experiment.budget)
    return ", ".join(f"{key} {asked[key]}" for key in ("macs", "params", "latency_ms", "drop_blocks") if asked.get(key))


def _measure(runs: list[_Run], settings: Settings) -> None:
    candidates = [candidate for run in runs for candidate in run.candidates]
    measured = {(row["name"], row["batch_size"]): row for row in benchmark(candidates, settings)}
    for run in runs:
        for row, candidate in zip(run.rows, run.candidates, strict=True):
            timed = measured[candidate.name, settings.batch_sizes[0]]
            row |= {key: timed[key] for key in ("latency_ms", "speedup", "realised", "peak_bytes")}


def _write(runs: list[_Run], rows: list[dict[str, Any]], folder: Path, settings: Settings) -> None:
    size, splits = settings.batch_sizes[0], {split_of(run.result) for run in runs}
    accuracy = f"top-1 (%), {splits.pop()}" if len(splits) == 1 else "top-1 (%)"
    scale, unit = (1e9, "GMACs") if max(row["macs"] for row in rows) >= 1e8 else (1e6, "MMACs")
    over_macs = _points(rows, lambda row: row["macs"] / scale)
    over_latency = _points(rows, lambda row: row["latency_ms"]["p50"])
    fronts = {
        "accuracy_over_macs": front_figure(over_macs, f"{unit} per image", accuracy),
        "accuracy_over_latency": front_figure(over_latency, f"ms per batch of {size}", accuracy),
    }
    _log_to_tensorboard(folder, fronts)
    titles = ("accuracy over MACs", "accuracy over latency")
    pictures = [_saved(folder, *named, title) for named, title in zip(fronts.items(), titles, strict=True)]
    place = environment(device_name(torch.device(settings.device)))
    sections = [_section(run, folder, number) for number, run in enumerate(runs)]
    (folder / PAGE).write_text(page(rows, pictures, sections, place, settings))
    document = {"rows": rows, "environment": place, "batch_size": size, "repeats": settings.repeats}
    (folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n")


def _points(rows: list[dict[str, Any]], cost: Callable[[dict[str, Any]], float]) -> list[Point]:
    return [Point(row["name"], row["run"], cost(row), row["top1"], row["dense"]) for row in rows]


def _section(run: _Run, folder: Path, number: int) -> Section:
    """The pictures of one run: architectures of its networks that differ from the dense one, and its curves."""
    dense, pictures = run.pipeline.dense_spec, []
    for place in sorted(_to_draw([network.spec for network in run.networks], dense)):
        network = run.networks[place]
        figure = architecture_figure(network.spec, dense, network.sources)
        pictures.append(_saved(folder, f"architecture_{number}_{place}", figure, f"architecture of {network.name}"))
    losses, accuracies = read_curves(run.pipeline.directory.path / "metrics.jsonl")
    for name, curves, label in (("loss", losses, "training loss"), ("accuracy", accuracies, "validation top-1 (%)")):
        if curves:
            pictures.append(_saved(folder, f"{name}_{number}", curves_figure(curves, label), label))
    facts = {"run": str(run.pipeline.directory.path), "method": run.result["method"], "seed": run.result["seed"],
             "data": run.pipeline.experiment.data.name, "evaluated on": split_of(run.result),
             "training": f"{run.result['wall_seconds']:,.0f} s",
             **_flat_environment(run.result["environment"])}  # fmt: skip
    return Section(run.label, pictures, facts)


def _to_draw(specs: Sequence[ArchSpec], dense: ArchSpec) -> set[int]:
    """Networks with blocks that differ; of those that are only narrower all over, the one nearest to half the MACs."""
    uneven = {place for place, spec in enumerate(specs) if len({*spec.blocks}) > 1 or spec.depth < dense.depth}
    even = [place for place, spec in enumerate(specs) if place not in uneven and spec.blocks != dense.blocks]
    half = costs.macs(dense) / 2
    return uneven | set(sorted(even, key=lambda place: abs(costs.macs(specs[place]) - half))[:1])


def _flat_environment(place: dict[str, Any]) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    return {key: str(place[key]) for key in ("device", "threads", "commit", "platform")} | {"versions": versions}


def _saved(folder: Path, name: str, figure: Figure, title: str) -> Picture:
    path = folder / f"{name}.png"
    figure.savefig(path)
    width, height = (round(side) for side in figure.get_size_inches() * CSS_PIXELS)
    figure.clear()
    return Picture(title, path.name, path.read_bytes(), width, height)


def _log_to_tensorboard(folder: Path, figures: dict[str, Figure]) -> None:
    logger = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    for name, figure in figures.items():
        logger.experiment.add_figure(name, figure, close=False)
    logger.finalize("success")
