"""`vitc slurm`: write the batch script of an experiment, and submit it."""

import argparse
import re
import shlex
from pathlib import Path

from lightning_vitc.commands._experiment import add_experiment
from lightning_vitc.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_experiment(parser)
    parser.add_argument("--nodes", type=int, help="default: slurm.nodes")
    parser.add_argument("--gpus-per-node", type=int, help="default: slurm.gpus_per_node; 0 runs on the CPU")
    parser.add_argument("--time", help="default: slurm.time")
    parser.add_argument("--partition", help="default: slurm.partition")
    parser.add_argument(
        "--array", metavar="SEEDS", help="a job array with a run a seed: 0-4, or 0-4%%2 for two at a time"
    )
    parser.add_argument("--no-data-check", action="store_true", help="where only the nodes have the data")
    parser.add_argument("--submit", action="store_true", help="call sbatch")


def run(args: argparse.Namespace) -> int:
    """Write, print where, submit."""
    from lightning_vitc.commands._batch_script import submit, write_script
    from lightning_vitc.config import load_experiment

    keys = ("nodes", "gpus_per_node", "time", "partition")
    given = [f"slurm.{key}={value}" for key in keys if (value := getattr(args, key)) is not None]
    if args.array is not None:
        script = _array(args, given)
    else:
        experiment = load_experiment(args.experiment, [*args.overrides, *given], check_files=not args.no_data_check)
        script = write_script(experiment, args.experiment, args.overrides, not args.no_data_check)
    print(script)
    if args.submit:
        print(submit(script))
    else:
        print(f"submit it with: sbatch {shlex.quote(str(script))}")
    return 0


def _array(args: argparse.Namespace, given: list[str]) -> Path:
    from lightning_vitc.commands._batch_script import write_array
    from lightning_vitc.sweeping.combinations import combinations

    seeds, jobs = seeds_of(args.array)
    text = ",".join(map(str, seeds))
    overrides = [*args.overrides, *given, f"seed={text}"]
    runs = combinations(args.experiment, overrides, check_files=not args.no_data_check)
    return write_array(runs, args.experiment, runs[0].directory.parent / "sweep", jobs, not args.no_data_check)


def seeds_of(text: str) -> tuple[list[int], int]:
    """Seeds, and how many are run at a time, from `0-4%2`.

    Raises:
        UserError: where it is none.
    """
    found = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", text)
    if not found or int(found[1]) >= int(found[2]) or found[3] == "0":
        raise UserError(f"--array: {text!r} is no range of seeds; give 0-4, or 0-4%2 for two at a time")
    seeds = list(range(int(found[1]), int(found[2]) + 1))
    return seeds, int(found[3] or len(seeds))
