"""`vitc train`: run an experiment, or continue it."""

import argparse

from lightning_vitc.commands._experiment import add_experiment
from lightning_vitc.config import load_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vitc train`."""
    add_experiment(parser)
    parser.add_argument("--fresh", action="store_true", help="delete the run there is and start over")


def run(args: argparse.Namespace) -> int:
    """Check the experiment, and only then import what trains it."""
    experiment = load_experiment(args.experiment, args.overrides)
    from lightning_vitc.pipeline.train import train

    train(experiment, fresh=args.fresh)
    return 0
