"""Weights from and to files. Nothing is ever unpickled: tensors and primitives only."""

import os
import pickle
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_vitc.errors import UserError

WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")  # where training scripts put the weights


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.safetensors` file or a `.pth`/`.pt`/`.bin` of tensors, official DeiT's included.

    Raises:
        UserError: where there is no such file, it is damaged, or it would have to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file; expected a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    content = read_checkpoint(path, settings=True)
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no weights; expected a dictionary of tensors")
    return {re.sub(r"\bgamma_([12])$", r"ls\1.gamma", name): value for name, value in content.items()}  # DeiT III


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a training script left beside the weights: its parsed arguments; none of most files."""
    if Path(path).suffix == ".safetensors":
        return {}
    arguments = read_checkpoint(path, settings=True).get("args")
    return vars(arguments) if isinstance(arguments, Namespace) else {}


def read_checkpoint(path: str | Path, settings: bool = False) -> dict[str, Any]:
    """A checkpoint of tensors and primitives, on the CPU.

    Args:
        path: the file.
        settings: also admit an `argparse.Namespace` of primitives, which holds data and nothing else.

    Raises:
        UserError: where it is missing, damaged, or holds any other kind of object.
    """
    try:
        with torch.serialization.safe_globals([Namespace] if settings else []):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint file") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: damaged, or holds more than tensors and primitives, which is never loaded; "
            "save the weights as .safetensors"
        ) from None
    except Exception:  # what damaged bytes lead to is anyone's guess
        raise UserError(f"{path}: damaged or truncated checkpoint") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a dictionary of tensors")
    return content


@contextmanager
def replace_atomically(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: a reader, or a crash, sees the old content or the new, whole.

    Args:
        path: the file.
        previous: where the old content goes; a crash at the wrong moment leaves it there alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file by `replace_atomically`."""
    with replace_atomically(path) as file:
        file.write(data)
