"""The card, its driver, and all versions that a number depends on."""

import datetime
import os
import platform
import shutil
import subprocess
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from on_gpu.children import start
from on_gpu.place import Place
from on_gpu.processes import FORKING

PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "omegaconf", "triton", "onnxruntime", "numpy",
            "pillow")  # fmt: skip


def describe(place: Place) -> dict[str, Any]:
    """Of this machine; computes something on the device, so that it is known to work in such a process."""
    import torch

    from lightning_vitc.latency.place import Place as Measured

    if float((torch.ones(8, 8, device=place.device) @ torch.ones(8, 8, device=place.device)).sum()) != 512:
        raise RuntimeError(f"{place.device} cannot multiply")
    found: dict[str, Any] = {"device": place.device, "card": Measured().described()["device_name"]}
    if place.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_gb": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda,
                  "multiprocessors": card.multi_processor_count, "driver": driver(),
                  "cards": torch.cuda.device_count()}  # fmt: skip
    return found


def versions() -> dict[str, str]:
    """Of what is installed of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def date() -> str:
    """Today, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def driver() -> str:
    """Its version, as its own program says it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout.split() or ["unknown"])[0]


def found(place: Place) -> dict[str, Any]:
    """`describe`, in a process like those that will do the work: forked, or where that cannot use the GPU a fresh one.

    Raises:
        SystemExit: where neither can.
    """
    for way in ("fork", "spawn"):
        os.environ[FORKING] = way
        child = start(partial(describe, place), place.scratch / "logs" / f"machine-{way}.log")
        try:
            outcome = child.heard() if child.pipe.poll(120) else None
        finally:
            child.end()
        if outcome and outcome["status"] == "ok":
            return outcome["values"] | {"processes": way}
        print(f"{place.device} in a process made by {way}: {(outcome or {}).get('reason', 'no answer')}", flush=True)
    raise SystemExit(1)


def commit() -> str | None:
    """Of this checkout."""
    from lightning_vitc.pipeline.results import git_commit

    return git_commit()
