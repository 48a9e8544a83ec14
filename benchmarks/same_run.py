"""What two runs of the same experiment differ in, bit for bit; nothing but wall times and the commit may."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

IGNORED = ("seconds", "wall_seconds", "commit", "digest")  # wall times, what a checkout is at while a study runs
MEASURED = ("scores", "order", "latency_reductions")  # in PRACTISE's `blocks.json`: divided by measured milliseconds
OWN = ("config.yaml", "hparams.yaml", ".lock")  # the name of the run, and who runs it
ALL_EVENTS = {"scalars": 0, "images": 0, "tensors": 0}


def differences(one: Path, two: Path, measured: bool = False) -> list[str]:
    """Names of what differs between two finished runs: an empty list for equal ones.

    Weights, duals, gates, averages, optimizers, schedules and positions in the data (all that a checkpoint holds),
    `metrics.jsonl`, decisions, tables, pictures, and TensorBoard, step by step.

    Args:
        one, two: directories of runs.
        measured: the run decides by measured latencies, whose numbers are left out.
    """
    names = {path.relative_to(run) for run in (one, two) for path in _files(run)}
    found = []
    for name in sorted(names):
        if not ((one / name).is_file() and (two / name).is_file()):
            found.append(f"{name} is in one alone")
        elif name.suffix == ".ckpt":
            found += [f"{name}: {key}" for key in _unequal(*(_checkpoint(run / name) for run in (one, two)))]
        elif name.suffix == ".json":
            ignored = (*IGNORED, *(MEASURED if measured and name.name == "blocks.json" else ()))
            found += [f"{name}: {key}" for key in _unequal(*(_json(run / name, ignored) for run in (one, two)))]
        elif (one / name).read_bytes() != (two / name).read_bytes():
            found.append(str(name))
    folders = {path.parent.relative_to(run) for run in (one, two) for path in run.rglob("events.out.*")}
    for folder in sorted(folders):
        first, second = (events(run / folder) for run in (one, two))
        found += [f"{folder}: {key}" for key in _unequal(first, second)]
    return found


def events(folder: Path) -> dict[str, list[Any]]:
    """Step and value of every scalar, image and text in TensorBoard's view of a folder, by tag."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that steps were written again is why we are here
    board = EventAccumulator(str(folder), size_guidance=ALL_EVENTS).Reload()
    tags = board.Tags()
    lines = {f"scalar {tag}": [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags["scalars"]}
    lines |= {
        f"image {tag}": [(event.step, event.encoded_image_string) for event in board.Images(tag)]
        for tag in tags["images"]
    }
    return lines | {
        f"text {tag}": [(event.step, event.tensor_proto.SerializeToString()) for event in board.Tensors(tag)]
        for tag in tags["tensors"]
    }


def _files(run: Path) -> Iterator[Path]:
    for path in run.rglob("*"):
        if path.is_file() and path.name not in OWN and not path.name.startswith("events.out."):
            yield path


def _checkpoint(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _json(path: Path, ignored: tuple[str, ...]) -> Any:
    content = json.loads(path.read_text())
    return {key: value for key, value in content.items() if key not in ignored}


def _unequal(one: Any, two: Any, name: str = "") -> list[str]:
    """Names of the leaves of nested containers that differ in value, type or bits."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = [key for key in {**one, **two} if key not in IGNORED]
        return [
            found for key in keys
            for found in _unequal(one.get(key), two.get(key), f"{name}.{key}" if name else str(key))
        ]  # fmt: skip
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [found for number, pair in enumerate(zip(one, two, strict=True))
                for found in _unequal(*pair, f"{name}[{number}]")]  # fmt: skip
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return [] if one.dtype == two.dtype and torch.equal(_bits(one), _bits(two)) else [name]
    return [] if type(one) is type(two) and (one == two or repr(one) == repr(two)) else [name]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """For a comparison in which two that are no number are equal."""
    return tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else tensor
