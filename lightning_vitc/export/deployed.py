"""Exported models as the runtimes run them: each is an `nn.Module`, images [B, C, H, W] -> logits [B, classes]."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.export import artifact
from lightning_vitc.export.formats import FILES, RUNNABLE
from lightning_vitc.export.pt2_archive import plain_archive


class OnnxNetwork(nn.Module):
    """An ONNX file in onnxruntime; images come from, and logits go to, any device.

    Args:
        path: the file.
        threads: of one operator; default: as many as torch uses.
        provider: onnxruntime's execution provider.

    Raises:
        UserError: where onnxruntime is missing, or cannot read the file.
    """

    def __init__(self, path: Path, threads: int | None = None, provider: str = "CPUExecutionProvider"):
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path}: needs onnxruntime; pip install 'lightning-vitc[export]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=[provider])
        except Exception as error:  # its classes are not public
            raise UserError(f"{path}: onnxruntime cannot read it ({str(error).splitlines()[0]})") from None

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        (logits,) = self.session.run(None, {"images": images.float().cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)


class Pt2Network(nn.Module):
    """A file of `torch.export`, see `pt2_archive` for what of it is loaded.

    Args:
        path: the file.
        ours: this process has written it, of any network whatever; else it is looked through first.

    Raises:
        UserError: where torch cannot read the file, or it holds more than a plain network.
    """

    def __init__(self, path: Path, ours: bool = False):
        super().__init__()
        try:
            self.network: Any = torch.export.load(path if ours else plain_archive(path)).module()
        except UserError:
            raise
        except Exception as error:  # what damaged bytes lead to is anyone's guess
            raise UserError(f"{path}: torch cannot read it ({str(error).splitlines()[0]})") from None

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images)

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
    return Pt2Network(path) if form == "pt2" else OnnxNetwork(path)
