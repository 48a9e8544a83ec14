"""How long a call takes and how much memory it needs, measured so that two calls can be compared."""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

Key = TypeVar("Key")
Call = Callable[[], Any]
_PROC = Path("/proc/self")


def interleaved(
    calls: Mapping[Key, Call], device: torch.device, repeats: int = 30, warmup: int = 5
) -> dict[Key, list[float]]:
    """Milliseconds of every call, round by round, so that a busy moment of the machine hits all of them.

    Args:
        calls: by any key.
        device: a GPU is timed by its own events, and waited for.
        repeats: rounds that count.
        warmup: rounds before them.
    """
    times: dict[Key, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for round_number in range(warmup + repeats):
            for name, call in calls.items():
                milliseconds = _timed(call, device)
                if round_number >= warmup:
                    times[name].append(milliseconds)
    return times


def percentiles(times: list[float]) -> dict[str, float]:
    """`p10`, `p50` and `p90`."""
    return {f"p{q}": round(float(np.percentile(times, q)), 4) for q in (10, 50, 90)}


def ratio(over: list[float], under: list[float]) -> float:
    """The median over rounds of one call's time over another's, which what slows a whole round does not touch."""
    return float(np.median(np.divide(over, under)))


def scatter(times: list[float]) -> float:
    """How many times its p10 the p90 is; near 1 on a machine that does nothing else."""
    found = percentiles(times)
    return found["p90"] / found["p10"]


def _timed(call: Call, device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Memory that a call takes beyond what is held when it begins; `None` where the system does not tell."""
    gc.collect()
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            call()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        return _resident_peak(call)


def _resident_peak(call: Call) -> int | None:
    """On Linux: the growth of the resident set, after memory that was freed has been returned to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    try:
        if trim is not None:
            trim(0)
        (_PROC / "clear_refs").write_text("5")  # sets the peak to what is resident now
        before = _resident("VmRSS")
        call()
        return max(_resident("VmHWM") - before, 0)
    except OSError:
        return None


def _resident(field: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
