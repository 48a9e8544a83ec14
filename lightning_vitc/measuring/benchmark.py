"""Latency, memory and size of networks beside the dense ones they come from.

All run interleaved in one process, in every runtime that is asked for; a speed-up is the median over the rounds of the
ratio to the dense network in the same runtime, precision and batch size.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.latency.timing import interleaved, peak_bytes, percentiles, ratio, scatter
from lightning_vitc.measuring.subjects import Candidate, Settings, Subject, subjects_of

NOISY = 2.0  # p90 over p10 from which a measurement is not worth much ...
TELLING = 10  # ... told after so many rounds

# torch.compile counts the networks of one class together, and would else quietly run the ninth one eagerly.
_COMPILE: dict[str, Any] = {
    "recompile_limit": 1024,
    "accumulated_recompile_limit": 1024,
    "fail_on_recompile_limit_hit": True,
}


def benchmark(
    candidates: Sequence[Candidate], settings: Settings, ready: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """A row for every candidate and its dense network, runtime, precision and batch size.

    Args:
        candidates: the networks.
        settings: what is measured and how.
        ready: called for every batch size when all is compiled and has run, before the first time is taken.

    Returns:
        Rows with `name`, `device`, `runtime`, `dtype`, `compile`, `batch_size`, `threads`, `latency_ms` (percentiles),
        `images_per_second`, `peak_bytes` (weights and what a forward pass adds), `file_bytes`, `macs`,
        `executed_macs` (those of padding too), `macs_reduction`, `speedup`, `realised` (speed-up over MACs reduction)
        and `dense`.

    Raises:
        UserError: for a device or runtime that is not there.
    """
    device = _device(settings.device)
    everyone = list(dict.fromkeys([*(candidate.reference for candidate in candidates), *candidates]))
    with tempfile.TemporaryDirectory() as folder, torch._dynamo.config.patch(_COMPILE):
        subjects: list[Subject] = []
        for number, candidate in enumerate(everyone):
            scratch = Path(folder) / str(number)
            scratch.mkdir()
            subjects += subjects_of(candidate, settings, device, scratch)
        return [row for size in settings.batch_sizes for row in _measured(subjects, size, settings, device, ready)]


def _measured(
    subjects: list[Subject], size: int, settings: Settings, device: torch.device, ready: Callable[[], None]
) -> list[dict[str, Any]]:
    calls, peaks = {}, {}
    batches = {id(one.candidate): _batches(one.candidate, size, settings.repeats) for one in subjects}
    for subject in subjects:
        images = [batch.to(device, subject.dtype) for batch in batches[id(subject.candidate)]]
        call = calls[subject.key] = subject.call_with(images)
        with torch.inference_mode():
            call()  # compiles, and fills what is filled once
        peak = peak_bytes(call, device)
        peaks[subject.key] = None if peak is None else peak + subject.file_bytes
    ready()
    times = interleaved(calls, device, settings.repeats, settings.warmup)
    worst = max(map(scatter, times.values()))
    if settings.repeats >= TELLING and worst > NOISY:
        warnings.warn(
            f"batch {size}: latencies scatter (p90 is up to {worst:.1f} times p10); measure on a machine that does "
            "nothing else", stacklevel=2,
        )  # fmt: skip
    return [_row(subject, size, times, peaks[subject.key], device) for subject in subjects]


def _batches(candidate: Candidate, size: int, repeats: int) -> list[Tensor]:
    """One of random images, or as many as rounds of real ones."""
    if candidate.images is None:
        return [torch.randn(size, *candidate.shape, generator=torch.Generator().manual_seed(0))]
    found = candidate.images(size * repeats)
    missing = -len(found) % size
    return list(torch.cat([found, found[:1].expand(missing, -1, -1, -1)]).split(size))


def _row(
    subject: Subject, size: int, times: Mapping[Any, list[float]], peak: int | None, device: torch.device
) -> dict[str, Any]:
    candidate, latency = subject.candidate, percentiles(times[subject.key])
    reduction = candidate.reference.macs / candidate.macs
    speedup = ratio(times[subject.dense_key], times[subject.key])
    return {
        "name": candidate.name, "device": device_name(device), **subject.runtime, "batch_size": size,
        "threads": torch.get_num_threads(), "latency_ms": latency,
        "images_per_second": round(1e3 * size / latency["p50"], 2), "peak_bytes": peak,
        "file_bytes": subject.file_bytes, "macs": candidate.macs,
        "executed_macs": candidate.executed or candidate.macs, "macs_reduction": round(reduction, 4),
        "speedup": round(speedup, 4), "realised": round(speedup / reduction, 4), "dense": candidate.reference.name,
    }  # fmt: skip


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device: {name!r} is no device; cpu and cuda are") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: there is no GPU that torch can use; cpu is there")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: {name!r} cannot be timed; cpu and cuda can")
    return device
