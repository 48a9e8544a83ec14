"""Time, MACs and memory of a training step of every method, as Lightning takes it, on a batch that lies on the device.

A method's own pipeline builds what it trains; the first stage that it asks for is trained until it has been measured.
"""

import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lightning_vitc import registry
from lightning_vitc.config import load_experiment
from lightning_vitc.data import VisionData
from lightning_vitc.schema import TrainerConfig
from lightning_vitc.training.pipeline import Pipeline
from lightning_vitc.training.run_directory import RunDirectory
from lightning_vitc.training.train import hush
from on_gpu.children import Skip, turn
from on_gpu.place import NAMES, Place, synchronize

OWN = Path(__file__).with_name("experiments")
FROM_THE_START = ("callbacks.pruning_schedule.start=0", "optimizer.warmup_epochs=0")
TAUGHT = "dense, taught"
METHODS: dict[
    str, tuple[str, ...]
] = {  # the experiment and its overrides; Scala's four widths are the same in each step
    "dense": ("separate_deit_s", "method.widths=[1.0]"),
    TAUGHT: ("separate_deit_s", "method.widths=[1.0]", "method.distillation=soft", "teacher.pretrained=false"),
    "scala": ("scala_deit_s", "method.granularity=0.25", "method.full_warmup_epochs=0", "teacher.model=null"),
    "uvc": ("uvc_deit_s", "callbacks.gate_staging.start=0", "callbacks.gate_staging.end=1", *FROM_THE_START),
    "usdc": ("usdc_deit_s", "budget.macs=50%", "callbacks.gate_freezing.at=0.9", *FROM_THE_START),
    "one_shot": (str(OWN / "one_shot_deit_s.yaml"),),
    "dcvit": ("dcvit_deit_b", "method.candidates=[1,2,3,4]"),
    "practise": ("practise_vit_b", "method.candidates=[1,2,3,4]"),
}
REFERENCE = {"uvc": TAUGHT, "usdc": TAUGHT}  # others: `dense`
PRECISIONS = {"bf16": "bf16-mixed", "tf32": "32-true"}
STEPS = 100_000  # that the training believes to take: schedules hardly move in the few that are measured


class MeasuredEnough(Exception):  # noqa: N818  ends a training
    """The clock has what it wants."""


class Clock(Callback):
    """Counts the MACs of a step, then times the steps after it in a few groups.

    Args:
        device: which is waited for before and after a group.
        warmup: steps that are not timed.
        size: steps of a group.
        counted: whether MACs are counted: not of compiled networks, which would not stay so.
    """

    GROUPS = 3

    def __init__(self, device: str, warmup: int, size: int, counted: bool):
        self.device, self.warmup, self.size, self.counted = device, warmup, size, counted
        self.macs: int | None = None
        self.seconds: list[float] = []
        self.bytes = 0
        self._done = 0
        self._counter = Macs()

    def on_train_batch_start(self, *_: Any) -> None:
        """Count the second step."""
        if self.counted and self._done == 1:
            self._counter.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        """Look at the clock."""
        if self.counted and self._done == 1:
            self._counter.__exit__(None, None, None)
            self.macs = self._counter.total
        self._done += 1
        if self._done == self.warmup:
            synchronize(self.device)
            turn()
            forget_peak(self.device)
            self._since = time.perf_counter()
        elif self._done > self.warmup and (self._done - self.warmup) % self.size == 0:
            synchronize(self.device)
            self.seconds.append((time.perf_counter() - self._since) / self.size)
            self._since = time.perf_counter()
        if len(self.seconds) == self.GROUPS:
            self.bytes = peak(self.device)
            raise MeasuredEnough


class Macs(TorchDispatchMode):
    """Counts those of matrix products and convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out) // 2
        return out


class Probe(Pipeline):
    """A pipeline whose first stage is watched by a clock."""

    clock: Clock

    def fit(self, stage: str, build: Any, *args: Any, **options: Any) -> Any:
        """Train it, as ever, with one more callback."""

        def watched() -> Any:
            module = build()
            module.configure_callbacks = lambda: [self.clock]
            return module

        return super().fit(stage, watched, *args, **options)


class Batches:
    """The same batch on the device, again and again."""

    def __init__(self, data: VisionData, place: Place, size: int):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, data.in_chans, *data.spec.size, generator=generator)
        targets = torch.randint(data.num_classes, (size,), generator=generator)
        self.batch = images.to(place.device), targets.to(place.device)

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(STEPS):
            yield self.batch


def step(place: Place, title: str, method: str, precision: str, compiled: str = "false", short: bool = False,
         batch: int | None = None) -> dict[str, Any]:  # fmt: skip
    """Milliseconds and MACs of a step, and its peak of memory.

    Args:
        place: where.
        title: of the network, one of `NAMES`.
        method: one of `METHODS`.
        precision: one of `PRECISIONS`.
        compiled: `trainer.compile`.
        short: few steps, for the memory alone.
        batch: images; default: as many as fit several processes on a card.
    """
    hush()
    if compiled != "false" and "compile" not in {field.name for field in fields(TrainerConfig)}:
        raise Skip("this version has no trainer.compile")
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    batch = batch or (4 if place.tiny else 128 if title == "DeiT-S" else 64)
    probe = probe_of(place, title, method, precision, compiled, batch)
    size = 1 if short or place.tiny else 6
    probe.clock = Clock(place.device, 2 if size == 1 else 8, size, counted=compiled == "false")
    try:
        registry.load_method(probe.experiment.method_name).pipeline(probe)
    except MeasuredEnough:
        clock = probe.clock
        return {"title": title, "method": method, "precision": precision, "compile": compiled, "batch": batch,
                "ms": round(1e3 * statistics.median(clock.seconds), 3), "macs": clock.macs,
                "spread": round(max(clock.seconds) / min(clock.seconds), 3), "bytes": clock.bytes}  # fmt: skip
    raise RuntimeError(f"the pipeline of {method} trains nothing")


def probe_of(place: Place, title: str, method: str, precision: str, compiled: str, batch: int) -> Probe:
    """The pipeline of a method on a network, with random weights; no file is read."""
    name, *own = METHODS[method]
    if method == TAUGHT:
        own.append(f"teacher.model={NAMES[title]}")
    few = () if method not in ("dcvit", "practise") else ("data.num_samples=8", "data.batch_size=8")
    keys = [*own, *few, *place.model(title), *place.where, "data.name=fake", "data.root=null", "data.num_workers=0",
            f"trainer.precision={PRECISIONS[precision]}", "trainer.log_every_n_steps=100000",
            f"run_name=step-{title}-{precision}-{compiled}-{batch}-{method.replace(', ', '-')}"]  # fmt: skip
    if not few:
        keys.append(f"data.batch_size={batch}")
    if compiled != "false":
        keys.append(f"trainer.compile={compiled}")
    experiment = load_experiment(name, keys)
    directory = RunDirectory.of(experiment)
    directory.open(experiment, fresh=True)
    probe = Probe(replace(experiment), directory)
    batches = Batches(probe.data, place, batch)
    probe.data.train_dataloader = lambda: batches  # type: ignore[method-assign]
    return probe


def forget_peak(device: str) -> None:
    """Begin anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int:
    """Bytes that tensors took on a GPU at most, or the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
