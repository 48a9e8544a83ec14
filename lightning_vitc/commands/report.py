"""`vitc report`: one page over finished runs, with accuracy, cost and measured latency."""

import argparse
import json

from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import path_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "sources", metavar="RUN_OR_DIR", nargs="+", type=path_argument, help="finished runs, and exported directories"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, type=path_argument, help="where to write the page and its pictures"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="of the latency (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="of the latency: cpu or cuda (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=30, help="rounds that count (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure, write, say where."""
    for key in ("batch_size", "repeats"):
        if (value := getattr(args, key)) < 1:
            raise UserError(f"--{key.replace('_', '-')}: {value} must be a whole number >= 1")
    from lightning_vitc.measuring.subjects import Settings
    from lightning_vitc.pipeline.train import hush
    from lightning_vitc.reporting.report import PAGE, report

    hush()
    settings = Settings(batch_sizes=(args.batch_size,), device=args.device, repeats=args.repeats)
    rows = report(args.sources, args.out, settings)
    print(json.dumps(rows) if args.json else f"{args.out.rstrip('/')}/{PAGE}")
    return 0
