"""Reading a file of weights, whatever a training script keeps beside them."""

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.files.checkpoint import read_checkpoint
from lightning_vitc.networks.weights.strict import must_be_dense

# Where training scripts put the weights; of DeiT's two and of timm's two, the first is the one that they evaluate.
WRAPPERS = ("model", "model_ema", "state_dict_ema", "state_dict", "module", "encoder")
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")  # in a folder of transformers


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.safetensors` file, or in any other file of torch, under the names that they have there.

    Args:
        path: of the file, of a folder of Hugging Face's transformers, or of its list of the files that share the
            weights.

    Raises:
        UserError: where there is no such file, it is damaged, or it would have to be unpickled.
    """
    path = _in_folder(Path(path))
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file; expected a .safetensors or .pth file")
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if path.suffix.lower() == ".json":
        return {name: value for part in _parts(path) for name, value in read_weights(part).items()}
    content = _unwrapped(read_checkpoint(path, settings=True), path)
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(
            f"{path}: holds no weights under {', '.join(WRAPPERS)}{_found(content)}; expected a dictionary of tensors"
        )
    must_be_dense(content, path)
    return content


def _in_folder(path: Path) -> Path:
    """The file that holds the weights, of a folder's."""
    if not path.is_dir():
        return path
    found = next((path / name for name in NAMES if (path / name).is_file()), None)
    if found is None:
        raise UserError(f"{path}: a folder without weights; expected one of {', '.join(NAMES)} in it, or a file")
    return found


def _parts(path: Path) -> list[Path]:
    """The files among which a list distributes the weights."""
    try:
        names = sorted({str(name) for name in json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, OSError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: no list of files of weights; expected a weight_map in it") from None
    for name in names:
        if Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise UserError(f"{path}: lists {name!r}, which is no file of weights beside it")
    return [path.parent / name for name in names]


def _found(content: dict[str, Any]) -> str:
    """What there is, as far as it has names."""
    names = [str(name) for name in content][:4]
    return f", but {', '.join(names)}" if names else ""


def _unwrapped(content: dict[str, Any], path: Path) -> dict[str, Any]:
    for _ in WRAPPERS:  # a dictionary may hold itself, and would be unwrapped forever
        held = [wrapper for wrapper in WRAPPERS if isinstance(content.get(wrapper), dict)]
        if not held:
            break
        if len(held) > 1:
            warnings.warn(f"{path}: holds {' and '.join(held)}; {held[0]} is taken", stacklevel=4)
        content = content[held[0]]
    return content
