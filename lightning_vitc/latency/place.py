"""Where latency counts: a device, a batch size and a number of threads."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_vitc.errors import UserError
from lightning_vitc.schema import Experiment

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Place:
    """What `budget.device`, `budget.batch_size` and `threads` say; eager PyTorch in fp32."""

    device: str = "cpu"
    batch_size: int = 1
    threads: int = 1

    @classmethod
    def of(cls, experiment: Experiment) -> "Place":
        """Of an experiment's budget.

        Raises:
            UserError: for a GPU that is not there.
        """
        budget = experiment.budget
        if budget.device == "cuda" and not torch.cuda.is_available():
            raise UserError("budget.device: cuda: torch finds no GPU here; set budget.device=cpu")
        return cls(budget.device, budget.batch_size, experiment.threads or torch.get_num_threads())

    def described(self) -> dict[str, Any]:
        """All that a measured number depends on beside the network."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else _cpu_name()
        return {"device": self.device, "device_name": name, "batch_size": self.batch_size,
                "threads": self.threads, "torch": torch.__version__}  # fmt: skip


def _cpu_name() -> str:
    """The model of the processor, where the system tells."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
