"""Images a second of the framework's loader from JPEGs, by its workers, as DeiT's recipe augments them."""

import time
from typing import Any

import torch

from lightning_vitc.config import load_experiment
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from on_gpu.archives import caltech_root
from on_gpu.place import SMALL, Place, synchronize
from on_gpu.turns import alone


def rates(place: Place) -> dict[str, Any]:
    """Of photographs of 112 px, at 224 px, by the number of workers; each batch goes to the device."""
    counts = sorted({0, 1, 2} if place.tiny else {1, 4, place.cores - 1})
    return {"images_per_second": {str(count): round(rate(place, count), 1) for count in counts},
            "recipe": "scala_deit_s", "source": "112 px JPEGs of --data"}  # fmt: skip


def rate(place: Place, workers: int) -> float:
    """From the first batch on, for some seconds or an epoch, alone."""
    size, seconds = (8, 0.5) if place.tiny else (64, 2.0)
    keys = ["data.name=folder", f"data.root={caltech_root(place)}", f"data.num_workers={workers}",
            f"data.batch_size={size}", "teacher.model=null", "model.name=deit_small_patch16_224", *place.where,
            *(SMALL if place.tiny else ())]  # fmt: skip
    experiment = load_experiment("scala_deit_s", keys)
    pipeline = Pipeline(experiment, RunDirectory.of(experiment))
    with alone():  # from the start, or its workers would have batches ready
        loader = iter(pipeline.data.train_dataloader())
        next(loader)
        began, images = time.perf_counter(), 0
        for batch, _ in loader:
            batch.to(place.device, non_blocking=True)
            images += len(batch)
            if time.perf_counter() - began > seconds:
                break
        synchronize(place.device)
        return images / (time.perf_counter() - began)


def in_memory(place: Place, batch: int = 512) -> dict[str, float]:
    """Milliseconds that the loader takes for a batch of CIFAR-10: from memory, and with augmentation."""
    from on_gpu.archives import cifar_root

    found = {}
    for name, keys in {"in memory": ("data.no_aug=true",), "augmented": ("data.no_aug=false",)}.items():
        experiment = load_experiment("scala_cifar100", [
            "data.name=cifar10", f"data.root={cifar_root(place)}", "data.num_workers=0",
            f"data.batch_size={batch}", "teacher.train=false", *keys, *place.where,
        ])  # fmt: skip
        torch.set_num_threads(1)
        loader = iter(Pipeline(experiment, RunDirectory.of(experiment)).data.train_dataloader())
        next(loader)
        with alone():
            began = time.perf_counter()
            for _ in range(3):
                next(loader)
            found[name] = round(1e3 * (time.perf_counter() - began) / 3, 1)
    return found
