"""`vitc slurm`: write the batch script of an experiment, and submit it."""

import argparse
import shlex

from lightning_vitc.commands._experiment import add_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_experiment(parser)
    parser.add_argument("--nodes", type=int, help="default: slurm.nodes")
    parser.add_argument("--gpus-per-node", type=int, help="default: slurm.gpus_per_node; 0 runs on the CPU")
    parser.add_argument("--time", help="default: slurm.time")
    parser.add_argument("--submit", action="store_true", help="call sbatch")


def run(args: argparse.Namespace) -> int:
    """Write, print where, submit."""
    from lightning_vitc.commands._batch_script import submit, write_script
    from lightning_vitc.config import load_experiment

    flags = {"nodes": args.nodes, "gpus_per_node": args.gpus_per_node, "time": args.time}
    given = [f"slurm.{key}={value}" for key, value in flags.items() if value is not None]
    experiment = load_experiment(args.experiment, [*args.overrides, *given])
    script = write_script(experiment, args.experiment, args.overrides)
    print(script)
    if args.submit:
        print(submit(script))
    else:
        print(f"submit it with: sbatch {shlex.quote(str(script))}")
    return 0
