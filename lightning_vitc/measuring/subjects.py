"""What `vitc benchmark` measures: a network in one runtime and precision, ready to be called."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.deployed import OnnxNetwork, Pt2Network
from lightning_vitc.exporting.write_formats import Shape, write_int8, write_onnx, write_pt2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(eq=False)
class Candidate:
    """A network to measure.

    Attributes:
        name: for the table.
        module: plain, in evaluation mode, on the CPU.
        macs: of one image.
        shape: of an image.
        dense: what it is compared with; itself by default.
        files: of its formats, where they are written already.
        executed: MACs that run, where they are more: the values of narrow heads are padded.
        images: where gates decide by the image, so many real ones [N, C, H, W]; else random ones do.
    """

    name: str
    module: nn.Module
    macs: int
    shape: Shape
    dense: "Candidate | None" = None
    files: dict[str, Path] = field(default_factory=dict)
    images: Callable[[int], Tensor] | None = None
    executed: int | None = None

    @property
    def reference(self) -> "Candidate":
        """The dense network."""
        return self.dense or self


@dataclass
class Settings:
    """What is measured and how; `formats` are runtimes, `safetensors` being PyTorch."""

    batch_sizes: Sequence[int] = (1,)
    device: str = "cpu"
    dtypes: Sequence[str] = ("fp32",)
    formats: Sequence[str] = ("safetensors",)
    compiled: bool = False  # also compiled, beside eager
    repeats: int = 30
    warmup: int = 5


@dataclass(eq=False)
class Subject:
    """A candidate in one runtime and precision; `runtime` are the columns of its rows that tell it from others."""

    candidate: Candidate
    runtime: dict[str, Any]
    network: nn.Module
    dtype: torch.dtype
    file_bytes: int

    def call_with(self, batches: Sequence[Tensor]) -> Any:
        """What is timed: a batch each time, the first again after the last."""
        following = itertools.cycle(batches)
        return lambda: self.network(next(following))

    @property
    def key(self) -> tuple[Any, ...]:
        """Its candidate and runtime."""
        return id(self.candidate), *self.runtime.values()

    @property
    def dense_key(self) -> tuple[Any, ...]:
        """The dense network in the same runtime."""
        return id(self.candidate.reference), *self.runtime.values()


def subjects_of(candidate: Candidate, settings: Settings, device: torch.device, scratch: Path) -> Iterator[Subject]:
    """A candidate in every runtime and precision that is asked for.

    Args:
        candidate: the network.
        settings: `formats`, `dtypes` and `compiled` are read.
        device: where it runs.
        scratch: an empty folder for the formats that are not written yet.

    Raises:
        UserError: where a runtime is not there.
    """
    for form in settings.formats:
        if form == "safetensors":
            yield from _of_pytorch(candidate, settings, device)
        else:
            ours = form not in candidate.files
            path = _written(candidate, form, scratch) if ours else candidate.files[form]
            dtype = "int8" if form == "int8" else "fp32"
            runtime = {"runtime": "pt2" if form == "pt2" else "onnx", "dtype": dtype, "compile": False}
            yield Subject(candidate, runtime, _opened(form, path, device, ours), torch.float32, path.stat().st_size)


def _of_pytorch(candidate: Candidate, settings: Settings, device: torch.device) -> Iterator[Subject]:
    for dtype, compiled in itertools.product(settings.dtypes, (False, True) if settings.compiled else (False,)):
        network: Any = copy.deepcopy(candidate.module).to(device, DTYPES[dtype])
        size = sum(value.nbytes for value in network.state_dict().values())
        runtime = {"runtime": "pytorch", "dtype": dtype, "compile": compiled}
        if compiled:
            network = torch.compile(network, dynamic=False)
        yield Subject(candidate, runtime, network, DTYPES[dtype], size)


def _written(candidate: Candidate, form: str, scratch: Path) -> Path:
    path = scratch / FILES[form]
    if form == "pt2":
        write_pt2(candidate.module, candidate.shape, path)
    elif form == "onnx":
        write_onnx(candidate.module, candidate.shape, path)
    else:
        onnx = candidate.files.get("onnx") or scratch / FILES["onnx"]
        if not onnx.is_file():
            write_onnx(candidate.module, candidate.shape, onnx)
        write_int8(onnx, path)
    return path


def _opened(form: str, path: Path, device: torch.device, ours: bool) -> nn.Module:
    if form == "pt2":
        return Pt2Network(path, ours=ours).to(device)
    if device.type == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise UserError(f"--formats: {form} runs on the CPU only: this onnxruntime has no CUDA; leave it out")
        return OnnxNetwork(path, provider="CUDAExecutionProvider")
    return OnnxNetwork(path)
