"""The formats that a compressed model is written in, and their files. Imports nothing heavy."""

from importlib.util import find_spec

from lightning_vitc.errors import UserError
from lightning_vitc.errors.suggest import did_you_mean

FILES = {
    "safetensors": "model.safetensors",  # always written: what `lightning_vitc.load` reads
    "onnx": "model.onnx",  # onnxruntime, dynamic batch
    "pt2": "model.pt2",  # torch.export, dynamic batch
    "int8": "model.int8.onnx",  # onnxruntime, weights and activations of linear layers in 8 bits, dynamic batch
    "timm": "timm",  # a folder that timm.create_model("local-dir:...") reads
}
RUNNABLE = ("safetensors", "onnx", "pt2", "int8")
_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "int8": ("onnx", "onnxscript", "onnxruntime")}


def parse_formats(text: str, known: tuple[str, ...] = tuple(FILES), option: str = "--formats") -> list[str]:
    """Formats by name from `safetensors,onnx`, each once.

    Raises:
        UserError: for an unknown format, or one whose packages are not installed.
    """
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"{option}: {name!r} is not one of {', '.join(known)}{hint}")
        for package in _NEEDS.get(name, ()):
            if find_spec(package) is None:
                raise UserError(f"{option}: {name} needs {package}; pip install 'lightning-vitc[export]'")
    return list(dict.fromkeys(chosen))
