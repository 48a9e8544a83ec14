"""`vitc plan`: what a method can reach for its model, or what every method would build for one."""

import argparse
import json
import sys
from typing import Any

from lightning_vitc.commands._experiment import add_experiment
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.units import Unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_experiment(parser)
    parser.add_argument(
        "--compare", action="store_true",
        help="EXP is a timm ViT: what every method would build for it, such as deit_small_patch16_224 budget.macs=50%%",
    )  # fmt: skip
    parser.add_argument(
        "--latency", action="store_true", help="with --compare: measure what is not known yet, which takes a minute"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    if args.compare:
        return _compare(args)
    if args.latency:
        raise UserError("--latency: has no effect without --compare; a budget of latency is measured anyway")
    experiment = load_experiment(args.experiment, args.overrides, check_files=False)
    from lightning_vitc.pipeline.planning import document_of, planned

    spec, plan = planned(experiment)
    document = document_of(experiment, spec, plan)
    if args.json:
        print(json.dumps(document))
    else:
        _print(document)
    sys.stdout.flush()  # before the line that says why it cannot be reached
    plan.check(experiment.budget)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from lightning_vitc.measuring.comparison import compare

    document = compare(args.experiment, args.overrides, args.latency)
    if args.json:
        print(json.dumps(document))
    else:
        _print_comparison(document)
    return 0


def _print_comparison(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    [(quantity, amount)] = document["budget"].items()
    table = Table(title=f"{document['model']}, budget.{quantity} {amount:,}")
    for title in ("method", "blocks", "attentions", "heads", "value dims", "hidden", "width"):
        table.add_column(title)
    for title in ("MACs", "params", "latency ms"):
        table.add_column(title, justify="right")
    table.add_column("note")
    rows = [{"method": "dense", "reached": True, "note": "", **document["dense"]}, *document["rows"]]
    units = {key: Unit.of(row[key] for row in rows if row["reached"]) for key in ("macs", "params")}
    for row in rows:
        table.add_row(*_cells(row, units), end_section=row is rows[0])
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    if document["place"] is None:
        console.print("latencies are not known here; --latency measures them", highlight=False)
    else:
        where = _place(document["place"])
        console.print(f"latency: expected, on {where}; which parts stay is decided by training", highlight=False)


def _place(place: dict[str, Any]) -> str:
    return f"{place['device_name']}, batch {place['batch_size']}, {counted(place['threads'], 'thread')}"


def _cells(row: dict[str, Any], units: dict[str, Unit]) -> list[str]:
    if not row["reached"]:
        return [row["method"], *[""] * 9, row["note"]]
    latency = "" if row["latency_ms"] is None else f"{row['latency_ms']:.2f}"
    counts = [unit.shown(row[key]) for key, unit in units.items()]
    return [row["method"], str(row["blocks"]), str(row["attentions"]), _ends(row["heads"]), f"{row['value_dims']:g}",
            _ends(row["hidden"]), str(row["embed_dim"]), *counts, latency, row["note"]]  # fmt: skip


def _ends(values: list[int]) -> str:
    return "-".join(str(value) for value in sorted(set(values)))


def _print(document: dict[str, Any]) -> None:
    unit = next(iter(document["reachable"])).removeprefix("min_")
    print(f"{document['method']} on {document['model']}, convention {document['convention']}")
    latency = f", {document['dense'][unit]:,} ms" if unit == "latency_ms" else ""
    print(f"  dense      {document['dense']['macs']:,} MACs, {document['dense']['params']:,} parameters{latency}")
    if place := document.get("place"):
        print(f"  on         {_place(place)}")
    for key in [name.removeprefix("min_") for name in document["reachable"] if name.startswith("min_")]:
        least, most, step = (document["reachable"][f"{end}_{key}"] for end in ("min", "max", "step"))
        counted, of = (unit, "") if key == unit else (f"{unit}, {key}", f" ({key})")
        print(f"  reachable  {least:,} to {most:,} {counted}, in steps of at most {step:,}")
        if document["target"] is not None:
            target = document["target"][key]
            share = 100 * target / document["dense"][unit]
            answer = "yes" if document["within_reach"][key] else "no"
            print(f"  target{of}     {target:,} {unit} ({share:.1f} %), satisfiable: {answer}")
    for network in document["plan"].pop("networks", []):
        latency = f", {network['latency_ms']:,} ms" if "latency_ms" in network else ""
        print(f"  {network['name']:<12} {network['macs']:,} MACs, {network['params']:,} parameters{latency}")
    for key, value in document["plan"].items():
        listed = ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else value
        print(f"  {key.replace('_', ' ')}: {listed}")
