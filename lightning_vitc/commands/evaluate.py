"""`vitc evaluate`: top-1 and top-5 of a run or an exported model on its experiment's evaluation split."""

import argparse
import json

from lightning_vitc.artifacts.formats import RUNNABLE, parse_formats
from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import path_argument
from lightning_vitc.schema.split_names import evaluated_on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="RUN_OR_DIR", type=path_argument,
        help="a run directory, or an exported directory; with --weights an experiment",
    )  # fmt: skip
    parser.add_argument("--width", help="a width ratio of the run's method; default: every row of its table")
    parser.add_argument("--budget", help="of an export that switches it, 70%% or several: 70%%,50%%; default: dense")
    parser.add_argument(
        "--weights", metavar="FILE", type=path_argument,
        help="evaluate this file's weights in the network of an experiment, at any width of Scala",
    )  # fmt: skip
    parser.add_argument(
        "--formats", help=f"of an exported directory, comma-separated, of {', '.join(RUNNABLE)}; default: safetensors"
    )
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="keys of the experiment, e.g. data.root=/data"
    )


def run(args: argparse.Namespace) -> int:
    """Print the accuracies."""
    formats = None if args.formats is None else parse_formats(args.formats, RUNNABLE)
    from lightning.pytorch.utilities import rank_zero_only

    from lightning_vitc.measuring.evaluating import evaluate_source
    from lightning_vitc.measuring.weights_file import evaluate_weights
    from lightning_vitc.pipeline.train import hush

    hush()
    if args.weights is None:
        rows = evaluate_source(args.source, args.width, args.split, args.overrides, formats, args.budget)
    elif args.budget is not None:
        raise UserError("--budget: a file of weights is one network; leave the option out")
    elif formats is not None:
        raise UserError("--formats: a file of weights has none of its own; leave the option out")
    else:
        rows = evaluate_weights(args.weights, args.source, args.width, args.split, args.overrides)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return 0
    if args.json:
        print(json.dumps(rows))
        return 0
    print(f"{evaluated_on(rows[0])}:")  # the same of all rows
    for row in rows:
        columns = "".join(f", {key} {row[key]}" for key in ("format", "width", "budget") if key in row)
        accuracies = f"top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} %"
        print(f"{row['name']}{columns}: {accuracies} ({row['macs']:,} MACs)")
    return 0
