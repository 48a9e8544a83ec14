"""`vitc cost`: multiply-accumulates and parameters of a model, whole and by part."""

import argparse
import json
from pathlib import Path

from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import path_argument
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec, as_ratio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model", metavar="MODEL_OR_DIR", type=path_argument, help="a timm ViT name, or an exported directory"
    )
    parser.add_argument("arguments", metavar="key=value", nargs="*", default=[], help="timm arguments, e.g. depth=6")
    parser.add_argument("--convention", choices=("full", "paper"), default="full", help="what is counted")
    parser.add_argument(
        "--method",
        choices=costs.PAPERS,
        help=f"whose paper, with --convention paper (default: that of an export, else {costs.DEFAULT_PAPER})",
    )
    parser.add_argument("--width", help="a width ratio, e.g. 0.5")
    parser.add_argument("--budget", help="of an exported directory that switches it, such as 70%%")
    parser.add_argument("--img-size", type=int, help="input size in pixels")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the counts."""
    if args.method and args.convention != "paper":
        raise UserError("--method: has no effect without --convention paper")
    ratio = None if args.width is None else as_ratio(args.width)
    spec, method = _read(args)
    if args.img_size is not None:
        spec = spec.with_img_size((args.img_size, args.img_size))
    if ratio is not None:
        spec = spec.at_width(ratio)
    method = args.method or (method if method in costs.PAPERS and method else costs.DEFAULT_PAPER)
    parts = costs.parts(spec, args.convention, method)
    total, params = sum(parts.values()), costs.params(spec)
    width, executed = None if ratio is None else float(ratio), costs.executed_beside(spec)
    if args.json:
        document = {"model": args.model, "convention": args.convention, "width": width, "macs": total,
                    "params": params, "parts": parts, **executed}  # fmt: skip
        print(json.dumps(document))
    else:
        _print(args, method, parts, total, params)
        for run in executed.values():
            print(f"{run:,} MACs run in convention full: values of narrow heads are padded to the queries' width")
    return 0


def _read(args: argparse.Namespace) -> tuple[ArchSpec, str | None]:
    """The network, and the method that made it where that is known."""
    if Path(args.model).is_dir():
        from lightning_vitc.artifacts.arch_json import read_arch

        if args.arguments:
            raise UserError(f"{args.arguments[0]}: {args.model} is an exported network, which takes no timm arguments")
        document = read_arch(args.model)
        if args.budget is not None:
            from lightning_vitc.artifacts.artifact import load

            return load(args.model, budget=args.budget).spec, document.get("method")  # type: ignore[return-value]
        return ArchSpec.from_dict(document["architecture"]), document.get("method")
    if args.budget is not None:
        raise UserError(f"--budget: {args.model} is no exported directory; leave the option out")
    import torch

    from lightning_vitc.config import parse_arguments
    from lightning_vitc.networks.timm_models import create_supported

    kwargs = parse_arguments(args.arguments)
    with torch.device("meta"):
        return ArchSpec.of(create_supported(args.model, **kwargs)), None


def _print(args: argparse.Namespace, method: str, parts: costs.Parts, total: int, params: int) -> None:
    from rich.console import Console
    from rich.table import Table

    counted = args.convention if args.convention == "full" else f"paper of {method}"
    at = "" if args.width is None else f" at width {args.width}"
    table = Table(title=f"{args.model}{at}, convention {counted}")
    table.add_column("part")
    table.add_column("MACs", justify="right")
    table.add_column("%", justify="right")
    for name, value in parts.items():
        if value:
            table.add_row(name, f"{value:,}", f"{100 * value / total:.2f}")
    table.add_section()
    table.add_row("total", f"{total:,}", "100.00")
    console = Console(markup=False)
    console.print(table)
    console.print(f"{params:,} parameters", highlight=False)
