"""What the parts share: where the data are, the network that they start from, and what a run will take."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from study import Run, mean_and_spread

from lightning_vitc.config import load_experiment
from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.pipeline.evaluation import evaluate
from lightning_vitc.pipeline.initial_network import template
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.trainers import test_trainer
from lightning_vitc.runs.directory import RunDirectory

TRAIN, TEST = {"caltech": 5495, "cifar10": 47500}, {"caltech": 2893, "cifar10": 10000}  # images, without validation
HALF = "trainer.limit_train_batches=0.5"  # of an epoch, where labels are read
ORIGINAL = 0  # the seed of the fine-tuned network, which all seeds start from


@dataclass(frozen=True)
class Planned:
    """A run, and how many images it takes through a network of the dense one's size."""

    run: Run
    forward: float
    trained: float  # forward and backward

    @property
    def data(self) -> str:
        """`caltech` or `cifar10`."""
        return self.run.experiment.partition("_")[2]


@dataclass(frozen=True)
class Setting:
    """The command line."""

    folder: Path
    seeds: Sequence[int]
    caltech: Path
    cifar: Path
    weights: Path
    images: Sequence[int] = (50, 500)  # unlabeled photographs
    blocks: Sequence[int] = (1, 3, 5)  # less, whose MACs are left
    budgets: Sequence[int] = (50, 30)  # percent of the MACs
    more: tuple[str, ...] = ()  # keys of every run, for a trial of the study itself

    @property
    def original(self) -> Planned:
        """The fine-tuned network: probe, six epochs of the last six blocks."""
        keys = (f"data.root={self.caltech}", f"model.pretrained={self.weights}", *self.more)
        epochs, probed = 6, TRAIN["caltech"] + TEST["caltech"]
        run = Run("dense", "dense_caltech", ORIGINAL, keys)
        return Planned(run, probed + epochs * TRAIN["caltech"] / 2, epochs * TRAIN["caltech"] / 2)

    def of_original(self, name: str, experiment: str, seed: int, *keys: str) -> Run:
        """A run that starts from it."""
        teacher = f"teacher.run={self.original.run.directory(self.folder)}"
        return Run(name, experiment, seed, (f"data.root={self.caltech}", teacher, *keys, *self.more))


Phases = list[list[Planned]]  # a phase reads what the ones before have made


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        phases: its runs.
        body: its tables, from the finished runs.
        prepare: what is done before a run is started.
    """

    phases: Callable[[Setting], Phases]
    body: Callable[[Setting], str]
    prepare: Callable[[Setting, Planned], None] | None = None


def cell(values: Sequence[float]) -> str:
    """Mean and spread; of one seed, its value."""
    return mean_and_spread(values) if len(values) > 1 else f"{values[0]:.2f}"


def kept(setting: Setting, kind: str, run: Run, make: Callable[[], Any]) -> Any:
    """What is computed from a finished run, once; it lies beside the studies' logs."""
    file = setting.folder / kind / run.experiment / f"{run.name}-{run.seed}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make()))
    return json.loads(file.read_text())


def of_finished(setting: Setting, run: Run) -> Pipeline:
    """The stages and data of a finished run, to be read."""
    directory = run.directory(setting.folder)
    experiment = load_experiment(str(directory / "config.yaml"), check_files=False)
    return Pipeline(experiment, RunDirectory(directory), read_only=True)


def evaluated(pipeline: Pipeline, networks: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 in percent on the test split, by name."""
    return evaluate(test_trainer(pipeline.experiment), networks, pipeline.data.num_classes, pipeline.data).accuracy


def pace(experiment: str, batch: int = 32) -> tuple[float, float]:
    """Seconds of a core an image, forward and with backward, of an experiment's network; others do not count."""
    torch.set_num_threads(1)
    spec = template(load_experiment(experiment, check_files=False).model, 100).spec
    network, images = from_spec(spec), torch.randn(batch, spec.in_chans, *spec.img_size)
    with torch.no_grad():
        forward = min(_timed(lambda: network.eval()(images)) for _ in range(3))
    return forward / batch, min(_timed(lambda: _step(network, images)) for _ in range(3)) / batch


def _step(network: Backbone, images: torch.Tensor) -> None:
    network.train()(images).sum().backward()


def _timed(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def minutes(planned: Planned, paces: dict[str, tuple[float, float]]) -> float:
    """That a run takes on one core, with the evaluation of two networks."""
    forward, trained = paces[planned.data]
    return ((planned.forward + 2 * TEST[planned.data]) * forward + planned.trained * trained) / 60
