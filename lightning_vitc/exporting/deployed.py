"""Exported models as the runtimes run them: each is an `nn.Module`, images [B, C, H, W] -> logits [B, classes]."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.artifacts.formats import FILES, RUNNABLE
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.exporting.pt2_archive import plain_archive
from lightning_vitc.networks.spec import ArchSpec


class Deployed(nn.Module, ABC):
    """A file in its runtime: images [B, C, H, W] -> logits [B, classes].

    What a file says of itself is not believed: every result is looked at.

    Args:
        path: the file.
        num_classes: it must have; any number by default.
    """

    def __init__(self, path: Path, num_classes: int | None = None):
        super().__init__()
        self.path, self.num_classes = path, num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits.

        Raises:
            UserError: where the file takes no such images, or gives anything else.
        """
        try:
            found = self.compute(images)
        except Exception as error:  # each runtime has its own
            raise UserError(
                f"{self.path}: cannot be run on images of {list(images.shape[1:])} ({_first_line(error)})"
            ) from None
        if len(found) != 1:
            raise UserError(f"{self.path}: gives {counted(len(found), 'result')}; logits are one")
        (logits,) = found
        classes = "classes" if self.num_classes is None else self.num_classes
        if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] != (self.num_classes or logits.shape[1]):
            raise UserError(
                f"{self.path}: gives {list(logits.shape)} for {counted(len(images), 'image')}; "
                f"logits are [{len(images)}, {classes}]"
            )
        return logits

    @abstractmethod
    def compute(self, images: Tensor) -> Sequence[Tensor]:
        """All that comes out of the file."""


class OnnxNetwork(Deployed):
    """An ONNX file in onnxruntime; images come from, and logits go to, any device.

    Args:
        path: the file.
        num_classes: as in `Deployed`.
        threads: of one operator; default: as many as torch uses.
        provider: onnxruntime's execution provider.

    Raises:
        UserError: where onnxruntime is missing, or cannot read the file.
    """

    def __init__(self, path: Path, num_classes: int | None = None, threads: int | None = None,
                 provider: str = "CPUExecutionProvider"):  # fmt: skip
        super().__init__(path, num_classes)
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path}: needs onnxruntime; pip install 'lightning-vitc[export]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 4  # of an operator that fails it would say so twice
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=[provider])
        except Exception as error:  # its classes are not public
            raise UserError(f"{path}: onnxruntime cannot read it ({_first_line(error)})") from None

    def compute(self, images: Tensor) -> Sequence[Tensor]:
        """All outputs of the graph."""
        found = self.session.run(None, {"images": images.float().cpu().numpy()})
        return [torch.from_numpy(output).to(images.device) for output in found]


class Pt2Network(Deployed):
    """A file of `torch.export`, see `pt2_archive` for what of it is loaded.

    Args:
        path: the file.
        num_classes: as in `Deployed`.
        ours: this process has written it, of any network whatever; else it is looked through first.

    Raises:
        UserError: where torch cannot read the file, or it holds more than a plain network.
    """

    def __init__(self, path: Path, num_classes: int | None = None, ours: bool = False):
        super().__init__(path, num_classes)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.11, of its own copy
                self.network: Any = torch.export.load(path if ours else plain_archive(path)).module()
        except UserError:
            raise
        except Exception as error:  # what damaged bytes lead to is anyone's guess
            raise UserError(f"{path}: torch cannot read it ({_first_line(error)})") from None

    def compute(self, images: Tensor) -> Sequence[Tensor]:
        """All outputs of the graph."""
        found = self.network(images)
        return [found] if isinstance(found, Tensor) else found

    def train(self, mode: bool = True) -> "Pt2Network":
        """Always in evaluation mode, which was exported."""
        self.training = mode  # a graph refuses to be asked
        return self


def open_format(directory: str | Path, form: str) -> nn.Module:
    """A format of an exported directory, ready to run.

    Args:
        directory: written by `vitc export`.
        form: one of `RUNNABLE`.

    Raises:
        UserError: where the directory lacks the format, or its file is damaged or from another export.
    """
    assert form in RUNNABLE
    if form == "safetensors":
        return artifact.load(directory)
    path = artifact.check(directory, FILES[form])
    classes = ArchSpec.from_dict(arch_json.read_arch(directory)["architecture"]).num_classes
    return Pt2Network(path, classes) if form == "pt2" else OnnxNetwork(path, classes)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
