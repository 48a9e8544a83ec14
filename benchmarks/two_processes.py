"""How much faster two processes train than one, at the same batch a process and at the same batch in all.

Every process has one thread. Settings take turns, so that what else runs on the machine hits all of them alike; on a
machine of two cores that is busy otherwise, the second process gets less than a core, and the figures are too low.
"""

import argparse
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

from forked import Vitc
from study import REPOSITORY, markdown, write_section
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

DOCUMENT = REPOSITORY / "docs" / "results" / "reliability.md"
WARM_UP = 5  # steps that are not timed
QUIET = (
    "trainer.limit_val_batches=0", "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1",
    "trainer.max_epochs=null", "callbacks.checkpoint.every_n_epochs=1000", "optimizer.warmup_epochs=0", "data.mixup=0",
    "threads=1",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        title: of the rows.
        experiment: its name.
        overrides: of its keys.
        batch: images a process at the fixed batch a process, and in all at the fixed batch in all.
        steps: that are timed.
    """

    title: str
    experiment: str
    overrides: tuple[str, ...]
    batch: int
    steps: int

    def rate(self, place: Path, processes: int, batch: int, number: int) -> float:
        """Images a second over the timed steps, as TensorBoard has their times."""
        vitc, name = Vitc(place), f"{processes}-{batch}-{number}"
        keys = (*self.overrides, *QUIET, f"data.batch_size={batch}", f"trainer.max_steps={WARM_UP + self.steps}")
        for end in vitc.run_ranks(processes, "train", self.experiment, *keys, f"run_name={name}", "--fresh"):
            if end.code:
                raise SystemExit(f"{self.title}: exit {end.code}\n{end.error}")
        board = EventAccumulator(str(place / "runs" / self.experiment / name / "tensorboard" / "dense")).Reload()
        times = [event.wall_time for event in board.Scalars("train/loss")][WARM_UP - 1 :]
        return batch * (len(times) - 1) / (times[-1] - times[0])


CASES = (
    Case("ViT of 0.67 M parameters, 17 tokens (digits)", "dense_digits", ("model.depth=6",), batch=64, steps=60),
    Case("DeiT-Ti, 5.7 M parameters, 197 tokens (random images)", "dense_digits",
         ("model.name=deit_tiny_patch16_224", "model.img_size=224", "model.patch_size=16", "model.in_chans=3",
          "model.embed_dim=192", "model.depth=12", "model.num_heads=3", "data.name=fake", "data.mean=null",
          "data.std=null"), batch=4, steps=8),
)  # fmt: skip


def measure(case: Case, place: Path, repeats: int) -> dict[str, list[float]]:
    """Images a second of every setting, in turns; what is in the file already is not measured again."""
    settings = {"one": (1, case.batch), "a process": (2, 2 * case.batch), "in all": (2, case.batch)}
    file = place / f"{case.title.split(',')[0].replace(' ', '-')}.json"
    found: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {name: [] for name in settings}
    for number in range(repeats):
        for name, (processes, batch) in settings.items():
            if len(found[name]) <= number:
                found[name].append(case.rate(place, processes, batch, number))
                file.write_text(json.dumps(found))
                print(f"{case.title}, {name}: {found[name][-1]:.1f} images/s", flush=True)
    return {name: values[:repeats] for name, values in found.items()}


def rows(case: Case, found: dict[str, list[float]]) -> list[list[str]]:
    """Of the table: medians, and the efficiency of each round of turns."""
    made = []
    for name, batch in (("one", case.batch), ("a process", 2 * case.batch), ("in all", case.batch)):
        efficiency = [100 * two / (2 * one) for one, two in zip(found["one"], found[name], strict=True)]
        shown = f"{statistics.median(efficiency):.0f} % ({min(efficiency):.0f} to {max(efficiency):.0f})"
        title = "one process" if name == "one" else f"two, same batch {name}"
        made.append([case.title, title, str(batch), f"{statistics.median(found[name]):.1f}",
                     "" if name == "one" else shown])  # fmt: skip
    return made


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "two_processes", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of turns (default: %(default)s)")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[2]
    table = [row for case in CASES for row in rows(case, measure(case, args.runs.absolute(), args.repeats))]
    header = ["", "", "images a step", "images/s", "efficiency"]
    body = (
        f"Medians of {args.repeats} rounds, one thread a process, {os.cpu_count()} cores, gloo; the machine's load "
        f"of 15 minutes before was {load:.1f}.\n\n{markdown(header, table)}"
    )
    results = [json.loads(file.read_text()) for file in sorted(args.runs.rglob("result.json"))]
    write_section(DOCUMENT, "two processes", body, results)


if __name__ == "__main__":
    main()
