"""`vitc train`: run an experiment, or continue it."""

import argparse

from lightning_vitc.commands._experiment import add_experiment
from lightning_vitc.commands.show import as_yaml
from lightning_vitc.config import load_experiment
from lightning_vitc.config.explained import explained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vitc train`."""
    add_experiment(parser)
    parser.description = f"{parser.description} 'vitc train EXP --help' lists the keys of an experiment."
    parser.add_argument("--fresh", action="store_true", help="delete the run there is and start over")


def more_help(experiment: str) -> str:
    """What `vitc train EXP --help` adds: the experiment's keys, as `vitc show` prints them."""
    return f"keys of {experiment}:\n\n{as_yaml(explained(experiment))}"


def run(args: argparse.Namespace) -> int:
    """Check the experiment, and only then import what trains it."""
    experiment = load_experiment(args.experiment, args.overrides)
    from lightning_vitc.pipeline.train import train

    train(experiment, fresh=args.fresh)
    return 0
