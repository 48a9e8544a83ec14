"""Shared by the studies: run what is missing, two single-threaded processes at a time, and write a table."""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_vitc.errors.messages import counted

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """One `vitc train`: its name in the study, the experiment, the seed and the overrides."""

    name: str
    experiment: str
    seed: int
    overrides: tuple[str, ...] = ()

    def directory(self, folder: Path) -> Path:
        """Where the run lives."""
        return folder / self.experiment / f"{self.name}-{self.seed}"

    def result(self, folder: Path) -> dict[str, Any]:
        """The finished run's `result.json`."""
        return json.loads((self.directory(folder) / "result.json").read_text())

    def log(self, folder: Path) -> Path:
        """What its processes print; the seconds of CPU that each took stand beside it, in a file `.cpu`."""
        return folder / "logs" / self.experiment / f"{self.name}-{self.seed}.log"

    def cpu_minutes(self, folder: Path) -> float:
        """Of all its processes, which does not depend on what else the machine does."""
        return sum(map(float, self.log(folder).with_suffix(".cpu").read_text().split())) / 60

    def top1(self, folder: Path, width: float) -> float:
        """Top-1 on the test split at a width, in percent."""
        return next(row["top1"] for row in self.result(folder)["rows"] if row.get("width") == width)


def arguments(description: str) -> argparse.Namespace:
    """The command line of a study."""
    return study_arguments(description).parse_args()


def study_arguments(description: str) -> argparse.ArgumentParser:
    """The options all studies have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "studies", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table-only", action="store_true", help="write the table of the runs there are")
    return parser


def execute(runs: Iterable[Run], folder: Path, jobs: int) -> None:
    """Train every run that is not complete; an interrupted one continues."""
    pending = [run for run in runs if not (run.directory(folder) / "result.json").exists()]
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for number, code in enumerate(pool.map(lambda run: _train(run, folder), pending), 1):
            name = f"{pending[number - 1].name}-{pending[number - 1].seed}"
            print(f"{number}/{len(pending)} {name}: exit {code}", flush=True)
            failed += [name] * (code != 0)
    if failed:  # the others have run, and are not run again
        raise SystemExit(f"these runs failed: {', '.join(failed)}; see {folder / 'logs'}")


def _train(run: Run, folder: Path) -> int:
    log = run.log(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lightning_vitc", "train", run.experiment, *run.overrides, f"seed={run.seed}",
               f"output_dir={folder}", f"run_name={run.name}-{run.seed}"]  # fmt: skip
    with log.open("a") as out:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # so that nobody waits for it again
    with log.with_suffix(".cpu").open("a") as out:
        out.write(f"{used.ru_utime + used.ru_stime}\n")
    return process.returncode


def slug(title: str) -> str:
    """A title as a name of directories."""
    return title.partition(" (")[0].lower().replace(" ", "-").replace(",", "")


def mean_and_spread(values: Sequence[float]) -> str:
    """`93.42 ± 0.51`: mean and sample standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2f} ± {spread:.2f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_section(document: Path, name: str, body: str, results: Sequence[dict[str, Any]] = ()) -> None:
    """Replace the section between the markers of `name`; the command, commits and versions stand below it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{body}\n\n{_provenance(results)}\n{end}"
    text = document.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{section}{after}" if rest else f"{text.rstrip()}\n\n{section}\n")


def recorded_rows(document: Path, name: str) -> dict[tuple[str, str], list[str]]:
    """The rows of a section's table by their first two cells: what earlier calls have found, and a new one adds to."""
    _, _, rest = document.read_text().partition(f"<!-- begin {name} -->")
    lines = [line for line in rest.partition(f"<!-- end {name} -->")[0].splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]  # below header and rule
    return {(cells[0], cells[1]): cells for cells in rows}


def _said(arguments: Sequence[str]) -> list[str]:
    """What decides the numbers: not where the runs lie, nor how many are made at a time."""
    options = [argument.partition("=")[0] for argument in arguments]
    places = {number for number, option in enumerate(options) if option in ("--runs", "--jobs")}
    values = {number + 1 for number in places if "=" not in arguments[number]}
    dropped = places | values | {number for number, option in enumerate(options) if option == "--table-only"}
    return [argument for number, argument in enumerate(arguments) if number not in dropped]


def _provenance(results: Sequence[dict[str, Any]]) -> str:
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_said(sys.argv[1:])])
    lines = [f"Written by `{command}`"]
    if results:
        environments = [result["environment"] for result in results]
        commits = sorted({str(environment["commit"]) for environment in environments})
        versions = environments[0]["versions"]
        hours = sum(result["wall_seconds"] for result in results) / 3600
        lines.append(f"{counted(len(results), 'run')}, {hours:.1f} process hours, one thread each")
        lines.append(f"commit {', '.join(commits)}")
        lines.append(", ".join(f"{name} {versions[name]}" for name in ("torch", "timm", "lightning")))
    return "; ".join(lines) + "."
