"""Two commands started at once on the same run, export or report: each ends whole, or with one line."""

import argparse
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forked import Done, Vitc
from kill_resume import DOCUMENT, SCALA
from study import REPOSITORY, markdown, write_section

from lightning_vitc.artifacts import artifact
from lightning_vitc.files.records import opened

RUN = "runs/scala_digits/default"
SHORT = (*SCALA, "optimizer.warmup_epochs=0", "trainer.max_epochs=1", "teacher.epochs=1")
TRAIN, FRESH = ("train", "scala_digits", *SHORT), ("train", "scala_digits", *SHORT, "--fresh")
SLURM = ("slurm", "scala_digits", *SHORT)
EVALUATE, EXPORT = ("evaluate", RUN), ("export", RUN, "--out", "exports/x", "--width", ".5")
REPORT = ("report", RUN, "--out", "reports/x", "--repeats", "1", "--batch-size", "1")
PLAN = ("plan", "uvc_digits", "model.depth=2", "model.embed_dim=24", "model.num_heads=2", "model.patch_size=4",
        "budget.macs=null", "budget.latency_ms=60%")  # fmt: skip


@dataclass(frozen=True)
class Race:
    """Two commands, and how far apart they start.

    Attributes:
        one, other: of `vitc`.
        pairs: how often.
        on_run: in a place where the run is there and complete.
        spread: the other one starts up to so many seconds later.
    """

    one: tuple[str, ...]
    other: tuple[str, ...]
    pairs: int
    on_run: bool = True
    spread: float = 0.1

    @property
    def title(self) -> str:
        """Of the row in the table."""
        names = [f"{command[0]} --fresh" if "--fresh" in command else command[0] for command in (self.one, self.other)]
        return f"{' and '.join(names)}, {'a complete run' if self.on_run else 'nothing there'}"


RACES = (
    Race(TRAIN, TRAIN, 8, on_run=False),
    Race(SLURM, SLURM, 8, on_run=False),
    Race(SLURM, TRAIN, 8, on_run=False, spread=0.3),
    Race(TRAIN, FRESH, 4, spread=0.3),
    Race(FRESH, FRESH, 3),
    Race(FRESH, EVALUATE, 5, spread=2),
    Race(FRESH, REPORT, 3, spread=2),
    Race(EXPORT, EXPORT, 3),
    Race(REPORT, REPORT, 2),
    Race(PLAN, PLAN, 2, on_run=False),
)


def problems(done: Done, whole: Done) -> Iterator[str]:
    """What one of two commands left on the terminal that it should not have."""
    lines = done.error.strip().splitlines()
    if "Traceback" in done.error:
        yield "traceback"
    elif done.code not in (0, 1, 2) or (done.code and len(lines) != 1):
        yield "no line"
    elif not done.code and len(done.out.splitlines()) < len(whole.out.splitlines()):
        yield "part of a table"


def left(place: Path) -> Iterator[str]:
    """What is half there once both have ended."""
    if [*place.rglob("*.tmp")]:
        yield "temporary files"
    for path in place.glob(f"{RUN}/**/*.json"):
        try:
            opened(path.read_bytes())
        except ValueError:
            yield f"half of {path.name}"
    for script in place.glob(f"{RUN}/train.sbatch"):
        if not script.read_text().endswith("\n"):
            yield "half of train.sbatch"
    if (place / "exports" / "x").exists():
        artifact.load(place / "exports" / "x")


def tried(race: Race, folder: Path, whole: dict[str, Done], delay: float) -> tuple[list[Done], set[str]]:
    """Both ends, and what is wrong with them."""
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / "whole", place) if race.on_run else place.mkdir()
    vitc, cache = Vitc(place), {"XDG_CACHE_HOME": str(place / "cache")}
    first = vitc.start(*race.one, **cache)
    time.sleep(delay)
    second = vitc.start(*race.other, **cache)
    ends = [vitc.done(first), vitc.done(second)]
    found = {problem for command, done in zip((race.one, race.other), ends, strict=True)
             for problem in problems(done, whole[command[0]])}  # fmt: skip
    found |= {*left(place)}
    if any(command[0] == "slurm" and not done.code for command, done in zip((race.one, race.other), ends, strict=True)):
        found |= set() if (place / RUN / "train.sbatch").exists() else {"no train.sbatch"}
    return ends, found


def alone_in(folder: Path) -> dict[str, Done]:
    """What each command prints alone; `whole` holds a complete run afterwards."""
    whole, place = folder / "whole", folder / "alone"
    whole.mkdir(parents=True)
    Vitc(whole)(*TRAIN)
    shutil.copytree(whole, place)
    vitc, cache = Vitc(place), {"XDG_CACHE_HOME": str(place / "cache")}
    return {command[0]: vitc(*command, **cache) for command in (TRAIN, SLURM, EVALUATE, EXPORT, REPORT, PLAN)}


def main() -> None:
    """Run all pairs, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "races", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the delays (default: %(default)s)")
    args = parser.parse_args()
    folder, draw = args.runs.absolute(), random.Random(args.seed)
    shutil.rmtree(folder, ignore_errors=True)
    alone = alone_in(folder)
    rows, total = [], Counter[str]()
    for race in RACES:
        counts = Counter[str]()
        for _ in range(race.pairs):
            ends, found = tried(race, folder, alone, draw.uniform(0, race.spread))
            counts.update("whole" if done.code == 0 else "one line" for done in ends)
            counts.update(found)
            if found:
                print(race.title, found, *(done.error for done in ends), flush=True)
        total += counts
        wrong = ", ".join(f"{name} {n}" for name, n in counts.items() if name not in ("whole", "one line"))
        rows.append([race.title, str(race.pairs), str(counts["whole"]), str(counts["one line"]), wrong or "nothing"])
        print(" | ".join(rows[-1]), flush=True)
    result = json.loads((folder / "whole" / RUN / "result.json").read_text())
    header = ["", "pairs", "ends whole", "ends with one line", "wrong"]
    pairs = sum(race.pairs for race in RACES)
    body = f"{pairs} pairs, seed {args.seed}.\n\n{markdown(header, rows)}"
    write_section(DOCUMENT, "races", body, [result])


if __name__ == "__main__":
    main()
