"""`vitc report`: one page with a table, accuracy over MACs and latency, architectures, curves, provenance."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from lightning_vitc.artifacts.formats import RUNNABLE
from lightning_vitc.errors import UserError
from lightning_vitc.figures.architecture import architecture_figure
from lightning_vitc.figures.front import Point, front_figure
from lightning_vitc.figures.png import png_of, show
from lightning_vitc.files.directory_swap import swapped_in
from lightning_vitc.measuring.benchmark import benchmark, device_name
from lightning_vitc.measuring.subjects import Settings
from lightning_vitc.networks.units import Unit
from lightning_vitc.pipeline.results import environment
from lightning_vitc.reporting.curves import curves_figure, read_curves
from lightning_vitc.reporting.page import Picture, Section, page
from lightning_vitc.reporting.seeds import Group, groups_of
from lightning_vitc.reporting.sources import Entry, sources_of

DOCUMENT, PAGE = "report.json", "index.html"
CSS_PIXELS = 96  # an inch


def report(sources: Sequence[str], out: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure the networks and write the page, its pictures, `report.json` and TensorBoard's events.

    Args:
        sources: finished runs, and exported directories.
        out: a new directory, or an earlier report, which is replaced.
        settings: of the latency; the first batch size is the one in the table.

    Returns:
        The rows of the table.

    Raises:
        UserError: where a source is not finished, or the directory holds something else.
    """
    target = Path(out)
    if target.exists() and not (target / DOCUMENT).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--out: {out} is not empty and no report; name another directory")
    found = sources_of(sources)
    entries = [entry for source in found for entry in source.entries]
    _measure(entries, settings)
    groups = groups_of(found)
    rows = [row for group in groups for row in group.rows]
    try:
        with swapped_in(target) as folder:
            _write(groups, rows, folder, settings)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror or error})") from None
    return rows


def _measure(entries: list[Entry], settings: Settings) -> None:
    """Add what was timed to the rows."""
    for form in RUNNABLE:
        ours = [entry for entry in entries if entry.form == form]
        if not ours:
            continue
        timed = benchmark([entry.candidate for entry in ours], replace(settings, formats=(form,)))
        by_name = {row["name"]: row for row in timed if row["batch_size"] == settings.batch_sizes[0]}
        for entry in ours:
            found = by_name[entry.candidate.name]
            entry.row.update({key: found[key] for key in ("latency_ms", "speedup", "realised", "peak_bytes")})


def _write(groups: list[Group], rows: list[dict[str, Any]], folder: Path, settings: Settings) -> None:
    size, splits = settings.batch_sizes[0], {source.split for group in groups for source in group.sources}
    accuracy = f"top-1 (%), {splits.pop()}" if len(splits) == 1 else "top-1 (%)"
    unit = Unit.of(row["macs"] for row in rows)
    over_macs = _points(rows, lambda row: row["macs"] / unit.size)
    over_latency = _points(rows, lambda row: row["latency_ms"]["p50"])
    fronts = {
        "accuracy_over_macs": front_figure(over_macs, f"{unit.letter}MACs per image", accuracy),
        "accuracy_over_latency": front_figure(over_latency, f"ms per batch of {size}", accuracy),
    }
    pictures = {name: _saved(folder, name, figure, name.replace("_", " ").replace("macs", "MACs"))
                for name, figure in fronts.items()}  # fmt: skip
    _log_to_tensorboard(folder, pictures)
    place = environment(device_name(torch.device(settings.device)))
    sections = [_section(group, folder, number) for number, group in enumerate(groups)]
    (folder / PAGE).write_text(page(rows, list(pictures.values()), sections, place, settings))
    document = {"rows": rows, "environment": place, "batch_size": size, "repeats": settings.repeats}
    (folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n")


def _points(rows: list[dict[str, Any]], cost: Callable[[dict[str, Any]], float]) -> list[Point]:
    return [
        Point(row["name"], row["run"], cost(row), row["top1"], row["dense"], row.get("top1_std", 0)) for row in rows
    ]


def _section(group: Group, folder: Path, number: int) -> Section:
    """The pictures of a group's first source: architectures of its networks and its training curves."""
    pictures, source = [], group.sources[0]
    for place, drawing in enumerate(source.drawings):
        figure = architecture_figure(drawing.spec, source.dense, drawing.sources)
        pictures.append(_saved(folder, f"architecture_{number}_{place}", figure, f"architecture of {drawing.name}"))
    losses, accuracies = read_curves(source.metrics) if source.metrics else ({}, {})
    for name, curves, label in (("loss", losses, "training loss"), ("accuracy", accuracies, "validation top-1 (%)")):
        if curves:
            pictures.append(_saved(folder, f"{name}_{number}", curves_figure(curves, label), label))
    return Section(group.label, pictures, group.facts)


def _saved(folder: Path, name: str, figure: Figure, title: str) -> Picture:
    path = folder / f"{name}.png"
    width, height = (round(side) for side in figure.get_size_inches() * CSS_PIXELS)
    path.write_bytes(png := png_of(figure))
    return Picture(title, path.name, png, width, height)


def _log_to_tensorboard(folder: Path, pictures: dict[str, Picture]) -> None:
    logger = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    for name, picture in pictures.items():
        show(logger, name, picture.png)
    logger.finalize("success")
