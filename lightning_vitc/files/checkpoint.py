"""Files that torch has saved. Nothing is ever unpickled: tensors and primitives only."""

import pickle
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from lightning_vitc.errors import UserError
from lightning_vitc.files.archives import refuse_swelling


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a training script left beside the weights: its parsed arguments; none of most files."""
    if Path(path).suffix.lower() == ".safetensors":
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
    refuse_swelling(path)
    try:
        with torch.serialization.safe_globals([Namespace] if settings else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about sparse tensors: what is refused is said by us
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint file") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: damaged, or holds more than tensors and primitives, which is never loaded{_foreign(path)}; "
            "save the weights as .safetensors"
        ) from None
    except Exception:  # what damaged bytes lead to is anyone's guess
        raise UserError(f"{path}: damaged or truncated checkpoint") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a dictionary of tensors")
    return content


def _foreign(path: str | Path) -> str:
    """What else there is, as far as it can be told without loading it."""
    try:
        names = {*torch.serialization.get_unsafe_globals_in_checkpoint(path)} - {"argparse.Namespace"}
    except Exception:  # damaged, or of a form before torch 1.6
        return ""
    return f" ({', '.join(sorted(names)[:3])})" if names else ""
