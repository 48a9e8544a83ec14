"""`vitc benchmark`: latency, throughput, memory and size beside the dense model."""

import argparse
import json
from typing import Any

from lightning_vitc.artifacts.formats import RUNNABLE, parse_formats
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.files.paths import path_argument

DTYPES = ("fp32", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "models", metavar="DIR_OR_MODEL", nargs="+", type=path_argument, help="exported directories, and models of timm"
    )
    parser.add_argument("--batch-sizes", default="1", help="comma-separated (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtypes", default="fp32", help=f"of PyTorch, comma-separated, of {', '.join(DTYPES)}")
    parser.add_argument("--compile", action="store_true", help="also compiled by torch.compile, beside eager")
    parser.add_argument(
        "--formats", default="safetensors",
        help=f"comma-separated, of {', '.join(RUNNABLE)}; exported where absent (default: %(default)s: PyTorch)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=30, help="rounds that count (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=5, help="rounds before them (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of one operator; default: what torch takes")
    parser.add_argument("--img-size", type=int, help="of timm models, in pixels")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    settings = _settings(args)
    import torch

    from lightning_vitc.measuring.benchmark import benchmark
    from lightning_vitc.measuring.candidates import candidates_of
    from lightning_vitc.measuring.subjects import Settings

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    arguments = {} if args.img_size is None else {"img_size": args.img_size}
    rows = benchmark(candidates_of(args.models, arguments), Settings(**settings))
    if args.json:
        print(json.dumps(rows))
    else:
        _print(rows, args.repeats)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Checked before anything heavy is imported."""
    try:
        sizes = [int(size) for size in args.batch_sizes.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise UserError(f"--batch-sizes: {args.batch_sizes!r} is not a list of whole numbers > 0, such as 1,64")
    dtypes = args.dtypes.split(",")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UserError(f"--dtypes: {dtype!r} is not one of {', '.join(DTYPES)}")
    for key, least in (("repeats", 1), ("warmup", 0), ("threads", 1), ("img_size", 1)):
        if (value := getattr(args, key)) is not None and value < least:
            raise UserError(f"--{key.replace('_', '-')}: {value} must be a whole number >= {least}")
    return {
        "batch_sizes": sizes, "device": args.device, "dtypes": dtypes, "compiled": args.compile,
        "formats": parse_formats(args.formats, RUNNABLE), "repeats": args.repeats, "warmup": args.warmup,
    }  # fmt: skip


def _print(rows: list[dict[str, Any]], repeats: int) -> None:
    from rich.console import Console
    from rich.table import Table

    first, console = rows[0], Console(markup=False)
    table = Table(
        title=f"{first['device']}, {counted(first['threads'], 'thread')}, {counted(repeats, 'interleaved round')}"
    )
    for title in ("network", "runtime"):
        table.add_column(title, no_wrap=True)
    for title in ("batch", "p10 ms", "p50 ms", "p90 ms", "images/s", "memory MB", "file MB", "MACs ÷", "speed-up",
                  "realized"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    rows = sorted(rows, key=lambda row: (row["batch_size"], _runtime(row)))  # stable: dense networks stay first
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is None or _runtime(following) != _runtime(row)
        table.add_row(*_cells(row), end_section=ends)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _runtime(row: dict[str, Any]) -> str:
    return " ".join([row["runtime"], row["dtype"], *(["compiled"] if row["compile"] else [])])


def _cells(row: dict[str, Any]) -> list[str]:
    latency = [f"{row['latency_ms'][key]:.2f}" for key in ("p10", "p50", "p90")]
    sizes = ["" if row[key] is None else f"{row[key] / 1e6:.1f}" for key in ("peak_bytes", "file_bytes")]
    ratios = [f"{row[key]:.2f}" for key in ("macs_reduction", "speedup", "realised")]
    speed = f"{row['images_per_second']:,.0f}"
    return [row["name"], _runtime(row), str(row["batch_size"]), *latency, speed, *sizes, *ratios]
