"""The study on Caltech-101: DC-ViT against PRACTISE on a fine-tuned, pretrained ViT-S/14, from 50 and 500 images."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from on_gpu.archives import WEIGHTS, archive, caltech_root
from on_gpu.commands import vitc
from on_gpu.place import Place
from on_gpu.study import OWN, of_table, run_of
from on_gpu.turns import alone_in
from on_gpu.units import Unit

IMAGES = (50, 500)
STEPS = 300  # of a fine-tuning, whatever the number of images
TIMED = ("lightning_vitc.methods.practise", "latencies")  # by which PRACTISE chooses, all else being stopped
WEIGHTS_UNIT = "data/weights"
TINY = ("data.num_workers=0", "trainer.precision=32-true", "trainer.limit_test_batches=1", "data.eval_batch_size=32")


def units(place: Place, seeds: Iterable[int], before: tuple[str, ...] = ()) -> list[Unit]:
    """The weights, the fine-tuned network, then both methods, seed by seed."""
    dense = run_of(place, "study_caltech", "dense", 0)
    name = "study/caltech/dense"
    prepared = Unit(WEIGHTS_UNIT, partial(weights, place), after=before, product=resampled(place))
    tuned = Unit(name, partial(finetune, place), 200, (WEIGHTS_UNIT, "data/caltech101"), dense / "result.json")
    runs = [
        Unit(f"study/caltech/{method} {images}/{seed}", partial(run, place, method, images, seed), 400, (name,))
        for seed in seeds for images in images_of(place) for method in ("dcvit", "practise")
    ]  # fmt: skip
    return [prepared, tuned, *runs]


def images_of(place: Place) -> tuple[int, ...]:
    """How many unlabeled photographs are seen."""
    return (8,) if place.tiny else IMAGES


def resampled(place: Place) -> Path:
    """The weights for the size of the study's images."""
    return place.scratch / "data" / "vit_small_patch14.safetensors"


def side_of(place: Place) -> int:
    """Of the images, in pixels."""
    return 28 if place.tiny else 112


def weights(place: Place) -> dict[str, Any]:
    """Position embeddings for this size, and single precision."""
    from safetensors.torch import load_file, save_file
    from timm.layers import resample_abs_pos_embed

    found = {name: value.float() for name, value in load_file(archive(place, WEIGHTS)).items()}
    grid = side_of(place) // found["patch_embed.proj.weight"].shape[-1]
    found["pos_embed"] = resample_abs_pos_embed(found["pos_embed"], [grid, grid], num_prefix_tokens=1).contiguous()
    resampled(place).parent.mkdir(parents=True, exist_ok=True)
    save_file(found, resampled(place))
    depth = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("blocks."))
    width = found["pos_embed"].shape[-1]
    return {"embed_dim": width, "depth": depth, "num_heads": width // 64, "file": WEIGHTS}


def common(place: Place) -> tuple[str, ...]:
    """The network of the file, where the run is, and what it reads."""
    facts = place.recorded(WEIGHTS_UNIT)
    network = tuple(f"model.{key}={facts[key]}" for key in ("embed_dim", "depth", "num_heads"))
    tiny = TINY if place.tiny else ()
    return (*network, f"model.img_size={side_of(place)}", f"data.root={caltech_root(place)}", *place.where, *tiny)


def finetune(place: Place) -> dict[str, Any]:
    """All labels, once: what is compressed."""
    own = ("trainer.max_epochs=1", "data.batch_size=16", "data.num_samples=30", "optimizer.warmup_epochs=0")
    return train(
        place, "study_caltech", "dense", 0, f"model.pretrained={resampled(place)}", *(own if place.tiny else ())
    )


def run(place: Place, method: str, images: int, seed: int) -> dict[str, Any]:
    """One method from so many photographs."""
    steps = 4 if place.tiny else STEPS
    epochs = -(-steps // -(-images // 64))
    tiny = ("budget.drop_blocks=1",) if place.tiny else ()
    if place.tiny and method == "dcvit":
        tiny = (*tiny, "method.synthetic.iterations=4", "method.synthetic.count=4", "method.synthetic.warmup=1")
    keys = (f"teacher.run={run_of(place, 'study_caltech', 'dense', 0)}", f"data.num_samples={images}",
            f"trainer.max_epochs={epochs}", f"optimizer.warmup_epochs={epochs // 10}", *tiny)  # fmt: skip
    return {"images": images, **train(place, f"study_{method}", f"{method} {images}", seed, *keys)}


def train(place: Place, experiment: str, title: str, seed: int, *keys: str) -> dict[str, Any]:
    """`vitc train`, or its continuation; the rows of its table."""
    directory = run_of(place, experiment, title, seed)
    file = str(OWN / f"{experiment}.yaml")
    name = f"run_name={directory.name}"
    measured = partial(alone_in, *TIMED) if experiment == "study_practise" else None
    vitc(place, "train", file, *common(place), *keys, f"seed={seed}", name, before=measured)
    result = json.loads((directory / "result.json").read_text())
    return {"title": title, "seed": seed, "seconds": result["wall_seconds"], **of_table(result)}
