"""Copies from the host to a device that nobody waits for."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU copied without making the host wait for what the device still computes.

    From memory that is not pinned, which is where `tensor.to`, `torch.tensor(..., device=...)` and `new_tensor` copy
    from, the host would wait until the device has done all that it was given before.
    """
    if values.device.type == "cpu" and device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
