"""`vitc runs`: the runs there are, a line each."""

import argparse
import json

from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import path_argument
from lightning_vitc.runs.overview import Overview, age, overview, runs_in
from lightning_vitc.schema import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "places", metavar="FOLDER", nargs="*", type=path_argument, default=[],
        help=f"runs, or folders that hold runs at any depth (default: {Experiment.output_dir})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the table, the latest run last."""
    places = args.places or [Experiment.output_dir]
    found = sorted((overview(path) for path in runs_in(places)), key=lambda each: each.changed)
    if args.json:
        print(json.dumps([each._asdict() for each in found]))
    elif not found:
        raise UserError(f"{places[0]}: holds no run; 'vitc train EXP' makes one")
    else:
        _print(found)
    return 0


def _print(found: list[Overview]) -> None:
    from rich.console import Console
    from rich.table import Table

    table, console = Table(), Console(markup=False)
    for title in ("run", "state", "experiment", "method", "budget"):
        table.add_column(title, overflow="fold")
    for title in ("top-1", "age", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in found:
        table.add_row(each.path, each.state, each.experiment, each.method, each.budget, _top1(each), age(each.changed),
                      f"{each.size / 1e6:,.1f} MB")  # fmt: skip
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _top1(each: Overview) -> str:
    """Of one network, or from the worst to the best of several; of what, where it is not the test split."""
    shown = "-".join(f"{value:.2f}" for value in dict.fromkeys((*each.top1[:1], *each.top1[-1:])))
    return shown if each.split in ("", "test") else f"{shown} ({each.split})"
