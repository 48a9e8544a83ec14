"""`vitc export`: write a run's compressed model as a directory that `lightning_vitc.load` reads."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a finished run directory")
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write the model")
    parser.add_argument("--width", help="a width ratio; default: the full width")
    parser.add_argument(
        "--formats", default="safetensors", help="comma-separated; only safetensors so far (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the directory."""
    from lightning_vitc.errors import UserError

    if args.formats != "safetensors":
        raise UserError(f"--formats: {args.formats} is not available; safetensors is")
    from lightning_vitc.finished import export

    name = export(args.run, args.out, args.width)
    print(f"{args.out}: {name}, load it with lightning_vitc.load({args.out!r})")
    return 0
