"""A compressed model as a directory: `model.safetensors`, `arch.json` and a model card. Nothing is pickled."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from timm.models.vision_transformer import VisionTransformer

from lightning_vitc import costs
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.backbone import load_strictly
from lightning_vitc.checkpoints import read_weights
from lightning_vitc.errors import UserError
from lightning_vitc.vit import build

WEIGHTS, ARCH, CARD = "model.safetensors", "arch.json", "README.md"
FORMAT = 1


def load(directory: str | Path) -> VisionTransformer:
    """The model in an exported directory, in evaluation mode, on the CPU.

    Raises:
        UserError: where a file is missing, damaged, or does not belong to the other.
    """
    model = _empty(read_arch(directory)["architecture"], Path(directory) / ARCH)
    weights = read_weights(Path(directory) / WEIGHTS)
    load_strictly(model, weights, str(Path(directory) / WEIGHTS), assign=True)
    return model.eval()


def _empty(architecture: dict[str, Any], path: Path) -> VisionTransformer:
    try:
        with torch.device("meta"):
            return build(ArchSpec.from_dict(architecture))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ArithmeticError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no such network can be built ({type(error).__name__}: {error})") from None


def read_arch(directory: str | Path) -> dict[str, Any]:
    """The content of `arch.json`.

    Raises:
        UserError: where it is missing, damaged or of a later format.
    """
    path = Path(directory) / ARCH
    try:
        document = json.loads(path.read_text())
        known = document["format"] == FORMAT
        if known and not isinstance(document["architecture"], dict):
            raise TypeError
    except OSError:
        raise UserError(f"{path}: no such file; expected a directory written by 'vitc export'") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; export the model again") from None
    if not known:
        raise UserError(f"{path}: format {document['format']} is not known to this version, which reads {FORMAT}")
    return document


def save(model: VisionTransformer, directory: str | Path, facts: dict[str, Any]) -> None:
    """Write the directory whole, or leave what is there.

    Args:
        model: a compacted model.
        directory: a new one, or an earlier export, which is replaced.
        facts: `method`, `budget`, `accuracy`, `preprocessing` and `provenance` for `arch.json` and the card.

    Raises:
        UserError: where the directory holds something else or cannot be written.
    """
    target = Path(directory).resolve()
    if target.exists() and not target.is_dir():
        raise UserError(f"--out: {directory} is a file; name a directory")
    if target.exists() and not (target / ARCH).is_file() and any(target.iterdir()):
        raise UserError(f"--out: {directory} is not empty and no exported model; name another directory")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write(model, temporary, facts)
        _replace(temporary, target)
    except OSError as error:
        raise UserError(f"--out: {directory} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(model: VisionTransformer, folder: Path, facts: dict[str, Any]) -> None:
    spec = ArchSpec.of(model)
    document = {"format": FORMAT, "architecture": json.loads(spec.to_json()), **facts}
    (folder / ARCH).write_text(json.dumps(document, indent=1) + "\n")
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    (folder / WEIGHTS).write_bytes(serialize(weights))  # safetensors' save_file makes files only the owner can read
    (folder / CARD).write_text(_card(spec, facts))
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _replace(new: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _card(spec: ArchSpec, facts: dict[str, Any]) -> str:
    accuracy = facts.get("accuracy") or {}
    lines = [f"| {name} | {value:.2f} % |" for name, value in accuracy.items()]
    budget = [f"| {name} | {value} |" for name, value in _budget_of(facts).items()]
    return "\n".join(
        [
            f"# {spec.name}, compressed by {facts.get('method')}",
            "",
            "| | |",
            "|---|---|",
            *budget,
            f"| MACs of one image | {costs.macs(spec):,} |",
            f"| parameters | {costs.params(spec):,} |",
            *lines,
            f"| input | {spec.in_chans} x {spec.img_size[0]} x {spec.img_size[1]} |",
            f"| classes | {spec.num_classes} |",
            "",
            "```python",
            "import lightning_vitc",
            'model = lightning_vitc.load("this directory")',
            "```",
            "",
            "`arch.json` holds the architecture, the preprocessing and where the model comes from.",
            "",
        ]
    )


def _budget_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What the network had to fit: its width, or the budget of its experiment."""
    asked = (facts.get("experiment") or {}).get("budget") or {}
    budget = {f"budget of {key}": asked.get(key) for key in ("macs", "params")}
    return {key: value for key, value in {**(facts.get("budget") or {}), **budget}.items() if value is not None}
