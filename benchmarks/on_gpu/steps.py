"""Time, MACs and memory of a training step of every method, as Lightning takes it, on a batch that lies on the device.

A method's own pipeline builds what it trains; the first stage that it asks for is trained until it has been measured.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_vitc.config import load_experiment, registry
from lightning_vitc.data import VisionData
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.train import hush
from lightning_vitc.runs.directory import RunDirectory
from on_gpu.clock import Clock, MeasuredEnough
from on_gpu.place import NAMES, Place

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
    "dcvit": ("dcvit_deit_b",),  # the first four of its candidates, which are trained at once
    "practise": ("practise_vit_b",),
}
PRECISIONS = {"bf16": "bf16-mixed", "tf32": "32-true"}
STEPS = 100_000  # that the training believes to take: schedules hardly move in the few that are measured


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
        short: few steps, for the memory alone, beside other processes.
        batch: images; default: as many as fit several processes on a card.
    """
    hush()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    batch = batch or (4 if place.tiny else 128 if title == "DeiT-S" else 64)
    probe = probe_of(place, title, method, precision, compiled, batch)
    size = 1 if short or place.tiny else 6
    probe.clock = Clock(place.device, 2 if size == 1 else 8, size, compiled == "false", alone=not short)
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
    few: tuple[str, ...] = ()
    if method in ("dcvit", "practise"):
        few = ("data.num_samples=8", "data.batch_size=8", "budget.drop_blocks=1")
    keys = [*own, *few, *place.model(title), *place.where, "data.name=fake", "data.root=null", "data.num_workers=0",
            f"trainer.precision={PRECISIONS[precision]}", "trainer.log_every_n_steps=100000",
            f"run_name=step-{title}-{precision}-{compiled}-{batch}-{method.replace(', ', '-')}"]  # fmt: skip
    if not few:
        keys.append(f"data.batch_size={batch}")
    elif place.tiny:
        keys.append("model.depth=5")  # which leaves candidates enough
    if compiled != "false":
        keys.append(f"trainer.compile={compiled}")
    experiment = load_experiment(name, keys)
    directory = RunDirectory.of(experiment)
    directory.open(experiment, fresh=True)
    probe = Probe(experiment, directory)
    batches = Batches(probe.data, place, batch)
    probe.data.train_dataloader = lambda: batches  # type: ignore[method-assign]
    return probe
