"""Where all of it happens, and how large it is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = {"DeiT-S": "deit_small_patch16_224", "DeiT-B": "deit_base_patch16_224"}
SMALL = ("model.img_size=32", "model.patch_size=8", "model.embed_dim=128", "model.depth=3", "model.num_heads=2")


@dataclass(frozen=True)
class Place:
    """A machine, and what is done on it.

    Attributes:
        device: `cuda`, or `cpu` where there is no GPU.
        tiny: everything at sizes that take a CPU two minutes.
        out: holds the results, `gpu.json`.
        scratch: holds everything else.
        data: a folder of archives, or `None`.
        cores: of the CPU.
    """

    device: str
    tiny: bool
    out: Path
    scratch: Path
    data: Path | None
    cores: int

    @property
    def jobs(self) -> int:
        """Processes at a time."""
        return max(2, min(12, self.cores - 2))

    @property
    def where(self) -> tuple[str, ...]:
        """Overrides that put a run here."""
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        return (f"trainer.accelerator={accelerator}", "trainer.devices=1", "trainer.enable_progress_bar=false",
                f"output_dir={self.runs}")  # fmt: skip

    @property
    def runs(self) -> Path:
        """The `output_dir` of all runs."""
        return self.scratch / "runs"

    @property
    def steps(self) -> int:
        """Optimizer steps of a training that is only tried."""
        return 6 if self.tiny else 30

    def model(self, title: str) -> tuple[str, ...]:
        """Overrides that choose a network of `NAMES`."""
        return (f"model.name={NAMES[title]}", *(SMALL if self.tiny else ()))

    def recorded(self, name: str) -> dict[str, Any]:
        """The values that a unit has left."""
        document = json.loads((self.out / "gpu.json").read_text())
        return document["units"][name].get("values", {})


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
