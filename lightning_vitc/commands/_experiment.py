"""The arguments that commands with an experiment share."""

import argparse


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """EXP and any number of key=value."""
    parser.add_argument("experiment", metavar="EXP", help="a name of 'vitc list', or the path of a YAML")
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],  # without a default argparse calls it required
        help="keys of the experiment, such as optimizer.lr=1e-3",
    )
