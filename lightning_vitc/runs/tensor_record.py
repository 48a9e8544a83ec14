"""Tensors that a run makes once: a file of them, and what is recorded of it, so that damage does not pass for them."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.networks.weights.files import read_weights

SUFFIX = ".safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write the file whole; what `read_tensors` is to be told of it."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_atomically(path, content)
    return {"sha256": sha256(content).hexdigest()}


def read_tensors(path: Path, made: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        UserError: where it is not the file that was written.
    """
    content = path.read_bytes() if path.is_file() else b""  # which is damage, too
    if made.get("sha256", found := sha256(content).hexdigest()) != found:
        raise UserError(f"{path}: damaged; not what {path.with_suffix('.json').name} was written for")
    return read_weights(path)
