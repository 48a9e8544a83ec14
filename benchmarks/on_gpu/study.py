"""The study on CIFAR-10: who keeps most accuracy at equal MACs when all have the same few epochs. One unit a run."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from on_gpu.archives import cifar_root
from on_gpu.commands import vitc
from on_gpu.place import Place
from on_gpu.units import Unit

OWN = Path(__file__).with_name("experiments")
PACE = "study/pace"
TINY = (
    "model.depth=3", "model.embed_dim=48", "model.num_heads=3", "model.patch_size=8", "data.batch_size=32",
    "data.mixup=0", "data.cutmix=0", "trainer.precision=32-true", "optimizer.warmup_epochs=0", "data.num_samples=96",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
)  # fmt: skip
WIDTHS = (0.25, 0.5, 0.75)
BUDGETS = (50, 30)  # percent of the MACs
PARTS = {"joint": (), "static": ("method.dynamic=false",), "dynamic": ("method.static=false",)}


def units(place: Place, seeds: Iterable[int]) -> list[Unit]:
    """The runs seed by seed; what compresses waits for its dense network."""
    return [unit for seed in seeds for unit in units_of(place, seed)]


def units_of(place: Place, seed: int) -> list[Unit]:
    """All runs of a seed."""
    name = dense_name(seed)
    teacher = f"teacher.run={run_of(place, 'study_dense', 'dense', seed)}"
    product = run_of(place, "study_dense", "dense", seed) / "result.json"
    found = [Unit(name, partial(run, place, "study_dense", "dense", seed), 600, (PACE,), product)]

    def add(experiment: str, title: str, *keys: str, of_dense: bool = False) -> None:
        after = (name,) if of_dense else (PACE,)
        own = (*keys, teacher) if of_dense else keys
        found.append(
            Unit(f"study/cifar10/{title}/{seed}", partial(run, place, experiment, title, seed, *own), 600, after)
        )

    add("study_scala", "scala")
    add("study_usnet", "usnet", "method.full_warmup_epochs=1")
    for width in WIDTHS[:1] if place.tiny else WIDTHS:
        add("study_dense", f"separate {width:g}", f"method.widths=[{width:g}]")
    for budget in BUDGETS[:1] if place.tiny else BUDGETS:
        add("study_uvc", f"uvc {budget}", f"budget.macs={budget}%", of_dense=True)
        for criterion in ("random",) if place.tiny else ("magnitude", "random"):
            keys = (f"budget.macs={budget}%", f"method.criterion={criterion}")
            add("study_one_shot", f"{criterion} {budget}", *keys, of_dense=True)
    for part, keys in [*PARTS.items()][: 1 if place.tiny else None]:
        add("study_usdc", f"usdc {part}", "budget.macs=50%", *keys, of_dense=True)
    return found


def dense_name(seed: int) -> str:
    """Of the unit that trains the dense network."""
    return f"study/cifar10/dense/{seed}"


def run_of(place: Place, experiment: str, title: str, seed: int) -> Path:
    """The directory of a run."""
    return place.runs / experiment / f"{title.replace(' ', '-')}-{seed}"


def run(place: Place, experiment: str, title: str, seed: int, *keys: str) -> dict[str, Any]:
    """`vitc train`, or its continuation; the rows of its table."""
    epochs = place.recorded(PACE)["epochs"]
    name = f"run_name={run_of(place, experiment, title, seed).name}"
    vitc(place, "train", *common(place, experiment), *epochs_of(experiment, epochs), *keys, f"seed={seed}", name)
    result = json.loads((run_of(place, experiment, title, seed) / "result.json").read_text())
    return {"title": title, "seed": seed, "epochs": epochs, "seconds": result["wall_seconds"], **of_table(result)}


def of_table(result: dict[str, Any]) -> dict[str, Any]:
    """Names, costs and accuracies of a finished run."""
    columns = ("name", "macs", "params", "top1", "width", "expected_macs", "worst_macs")
    rows = [{key: row[key] for key in columns if key in row} for row in result["rows"]]
    dense = result["dense"] or {}
    return {"rows": rows, "dense": {key: dense[key] for key in ("macs", "params", "top1") if key in dense}}


def common(place: Place, experiment: str) -> tuple[str, ...]:
    """The experiment, where it runs, and what it reads."""
    tiny = TINY if place.tiny else ()
    return (str(OWN / f"{experiment}.yaml"), *place.where, f"data.root={cifar_root(place)}", *tiny)


def epochs_of(experiment: str, epochs: int) -> tuple[str, ...]:
    """As many for every method: half of them for a search and half for what follows it; validated once, at the end."""
    if experiment == "study_one_shot":
        return (f"trainer.max_epochs={epochs}", f"method.finetune_epochs={epochs}",
                f"trainer.check_val_every_n_epoch={epochs}")  # fmt: skip
    if experiment in ("study_uvc", "study_usdc"):
        half = epochs // 2
        return (f"trainer.max_epochs={half}", f"method.finetune_epochs={half}",
                f"trainer.check_val_every_n_epoch={half}", f"optimizer.warmup_epochs={min(1, half / 4)}")  # fmt: skip
    return f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"
