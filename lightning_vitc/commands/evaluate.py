"""`vitc evaluate`: top-1 and top-5 of a run or an exported model on its experiment's evaluation split."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", metavar="RUN_OR_DIR", help="a run directory, or an exported directory")
    parser.add_argument("--width", help="a width ratio of the run's method; default: every row of its table")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="keys of the experiment, e.g. data.root=/data"
    )


def run(args: argparse.Namespace) -> int:
    """Print the accuracies."""
    from lightning_vitc.finished import evaluate_source
    from lightning_vitc.train import hush

    hush()
    rows = evaluate_source(args.source, args.width, args.split, args.overrides)
    if args.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['name']}: top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} % ({row['macs']:,} MACs)")
    return 0
