"""Reading a file of weights, whatever a training script keeps beside them."""

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
WRAPPERS = ("model", "model_ema", "state_dict_ema", "state_dict")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.safetensors` file, or in any other file of torch, under the names that they have there.

    Raises:
        UserError: where there is no such file, it is damaged, or it would have to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file; expected a .safetensors or .pth file")
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    content = _unwrapped(read_checkpoint(path, settings=True), path)
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(
            f"{path}: holds no weights under {', '.join(WRAPPERS)}{_found(content)}; expected a dictionary of tensors"
        )
    must_be_dense(content, path)
    return content


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
