"""How many epochs there is time for, as several runs at once train now."""

import json
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from on_gpu import study
from on_gpu.children import Failed
from on_gpu.commands import start_vitc
from on_gpu.place import Place
from on_gpu.processes import end
from on_gpu.units import Unit

EVERY, WINDOW = 5, 6.0  # steps between two that are logged; seconds in which they are counted
COST = 20.0  # dense epochs' worth of work in an epoch of every run of a seed together: MACs of their steps, by hand
FEWEST, MOST = 4, 60  # epochs
STARTS = 2  # one after another in a seed: the dense network's, and that of a run that compresses it
STEPS_OF_EPOCH = 45_000 // 512


def unit(place: Place, seconds: float) -> Unit:
    """It, for runs of the first seed that may take so many seconds."""
    return Unit(study.PACE, partial(paced, place, seconds), limit=90, after=("data/cifar10",))


def paced(place: Place, seconds: float) -> dict[str, Any]:
    """The epochs of every run, so that those of one seed take the seconds, these included."""
    began, every = time.monotonic(), 1 if place.tiny else EVERY
    keys = (
        *study.common(place, "study_dense"), "trainer.max_steps=1000000", "trainer.max_epochs=null",
        f"trainer.log_every_n_steps={every}", "trainer.limit_val_batches=0", "optimizer.warmup_epochs=0",
    )  # fmt: skip
    runs = [study.run_of(place, "study_dense", "pace", number) for number in range(place.jobs)]
    for run in runs:
        shutil.rmtree(run, ignore_errors=True)  # of an earlier try
    started = [start_vitc(place, "train", *keys, f"run_name={run.name}") for run in runs]
    while not all(steps_of(run) >= 2 * every for run in runs):  # of the first one, much is done once
        if ended := [done() for process, done in started if not process.is_alive()]:
            raise Failed(f"a run for the pace ended with {ended[0].code}: {ended[0].last_line}")
        time.sleep(0.05)
    starting = time.monotonic() - began
    rate = rate_of(runs, 0.5 if place.tiny else WINDOW)
    for process, _ in started:
        end(process)
    left = seconds - (time.monotonic() - began) - STARTS * starting
    epochs = FEWEST if place.tiny else max(FEWEST, min(MOST, int(left * rate / (COST * STEPS_OF_EPOCH))))
    return {"epochs": epochs // 2 * 2, "steps_per_second": round(rate, 1), "seconds_to_start": round(starting, 1),
            "runs": len(runs)}  # fmt: skip


def rate_of(runs: Sequence[Path], window: float) -> float:
    """Steps a second of all runs together, between what they have logged now and after so many seconds."""
    since, before = time.monotonic(), sum(map(steps_of, runs))
    time.sleep(window)
    return (sum(map(steps_of, runs)) - before) / (time.monotonic() - since)


def steps_of(run: Path) -> int:
    """That a run has logged to have taken; 0 before the first."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((1 + json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
