"""`vitc sweep`: every combination of values of some keys, a run each, and one table over their seeds."""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path

from lightning_vitc.commands._experiment import add_experiment
from lightning_vitc.errors import RunFailure, UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.files.paths import path_argument
from lightning_vitc.sweeping.combinations import Combination, combinations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_experiment(parser)
    parser.description = f"{parser.description} Several values of a key stand between commas: seed=0,1,2."
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="list the runs, and start none")
    parser.add_argument("--slurm", action="store_true", help="write a batch script, a job array with a run a task")
    parser.add_argument("--submit", action="store_true", help="with --slurm: call sbatch")
    parser.add_argument("--out", metavar="DIR", type=path_argument,
                        help="for the table, the picture and logs (default: OUTPUT_DIR/EXP/sweep)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a row for every network of every run")


def run(args: argparse.Namespace) -> int:
    """Train what is missing; then the table of all that is complete."""
    if args.jobs < 1:
        raise UserError(f"--jobs: {args.jobs} must be a whole number >= 1")
    if args.submit and not args.slurm:
        raise UserError("--submit: goes with --slurm")
    runs = combinations(args.experiment, args.overrides, check_files=not args.dry)
    out = Path(args.out) if args.out else runs[0].directory.parent / "sweep"
    if args.dry:
        _list(runs)
    elif args.slurm:
        _write_array(runs, args, out)
    else:
        _train(runs, args, out)
    return 0


def _list(runs: list[Combination]) -> None:
    from lightning_vitc.sweeping.running import pending

    missing = pending(runs)
    for each in runs:
        print(f"{each.directory}: {'missing' if each in missing else 'complete'}")


def _write_array(runs: list[Combination], args: argparse.Namespace, out: Path) -> None:
    from lightning_vitc.commands._batch_script import submit, write_array
    from lightning_vitc.sweeping.running import pending

    if not (missing := pending(runs)):
        raise UserError(f"all {counted(len(runs), 'run')} are complete; leave --slurm out for their table")
    path = write_array(missing, args.experiment, out, args.jobs)
    print(path)
    print(submit(path) if args.submit else f"submit it with: sbatch {shlex.quote(str(path))}")


def _train(runs: list[Combination], args: argparse.Namespace, out: Path) -> None:
    from lightning_vitc.sweeping.running import execute, pending
    from lightning_vitc.sweeping.table import rows_of
    from lightning_vitc.sweeping.writing import write

    logs, say = out / "logs", partial(print, file=sys.stderr, flush=True)
    say(f"{counted(len(runs), 'run')}, {len(pending(runs))} to train; logs in {logs}")
    failed = execute(args.experiment, runs, logs, args.jobs, say)
    rows = rows_of(runs)
    if rows:
        text = write(rows, list(runs[0].values), runs[0].experiment.name, out)
        print(json.dumps(rows) if args.json else text)
    if failed:
        raise RunFailure(f"{counted(len(failed), 'run')} failed: {', '.join(failed)}; see {logs}")
