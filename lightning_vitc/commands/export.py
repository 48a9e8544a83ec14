"""`vitc export`: write a run's compressed model as a directory that `lightning_vitc.load` reads."""

import argparse

from lightning_vitc.artifacts.formats import FILES, parse_formats
from lightning_vitc.errors import UserError
from lightning_vitc.files.paths import path_argument
from lightning_vitc.schema.fields import is_one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=path_argument, help="a finished run directory")
    parser.add_argument("--out", metavar="DIR", required=True, type=path_argument, help="where to write the model")
    parser.add_argument("--width", help="a width ratio, or several: .25,.5 (a folder each); default: the full width")
    parser.add_argument(
        "--variant", help="a network of the table by its name, or 'elastic': all widths, or budgets, in one file"
    )
    parser.add_argument(
        "--formats", default="safetensors", help=f"comma-separated, of {', '.join(FILES)} (default: %(default)s)"
    )
    parser.add_argument("--license", metavar="NAME", help="of the weights, for the model card, such as apache-2.0")
    parser.add_argument(
        "--logits-only", action="store_true", help="do not compare the accuracy of the formats on the evaluation split"
    )


def run(args: argparse.Namespace) -> int:
    """Write the directory."""
    formats = parse_formats(args.formats)
    if args.license is not None and not is_one_line(args.license):
        raise UserError(f"--license: {args.license!r} is not text of one line without control characters")
    from lightning_vitc.exporting.exporting import export
    from lightning_vitc.pipeline.train import hush

    hush()
    names = export(
        args.run, args.out, width=args.width, variant=args.variant, formats=formats, license_name=args.license,
        evaluated=not args.logits_only,
    )  # fmt: skip
    for name in names:
        place = args.out if len(names) == 1 else f"{args.out.rstrip('/')}/{name}"
        print(f"{place}: {name}, load it with lightning_vitc.load({place!r})")
    return 0
