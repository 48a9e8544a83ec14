"""A compressed model as a directory: `model.safetensors`, `arch.json` and a model card. Nothing is pickled.

`arch.json` holds the digests of the other files, and `model.safetensors` that of the architecture, with the widths of
a network that switches between them: files of two exports do not pass for one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from lightning_vitc.artifacts.arch_json import (
    AGAIN,
    ARCH,
    FORMAT,
    SEVERAL,
    classes_in,
    preprocessing_in,
    read_arch,
    transform_in,
)
from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.artifacts.model_card import model_card
from lightning_vitc.errors import UserError
from lightning_vitc.files.directory_swap import swapped_in
from lightning_vitc.files.records import sealed
from lightning_vitc.images.preprocessing import Transform
from lightning_vitc.networks.elastic import Elastic, is_beside
from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.weights.files import read_weights
from lightning_vitc.networks.weights.strict import load_strictly

WEIGHTS, CARD = FILES["safetensors"], "README.md"
DIGEST = "architecture_sha256"  # in the metadata of the weights
Model = nn.Module  # a network, or an `Elastic` one
# the classes of elastic networks; their homes may stand above, so they are found by name when one is loaded
KINDS = {"elastic": "networks.elastic.ElasticViT", "compensated": "compensation.elastic.CompensatedViT"}


def load(directory: str | Path, *, width: str | float | None = None, budget: str | float | None = None) -> Model:
    """The model in an exported directory, in evaluation mode, on the CPU: a plain ViT, or one that holds several.

    Its `classes` are the names of class 0, 1, ..., or `None` where the export has none; its `preprocessing` says how an
    image becomes an input, in timm's words, and whether it is turned as EXIF says; its `transform` does that.

    Args:
        directory: written by `vitc export`.
        width: of an `ElasticViT`, the one that runs at first.
        budget: of a `CompensatedViT`, likewise: `70%` of the dense network, or a number such as `1.2G`.

    Raises:
        UserError: where a file is missing, damaged, or does not belong to the other; for a width or a budget that the
            model does not switch, or does not have.
    """
    directory = Path(directory)
    document = read_arch(directory)
    _must_be_there(directory, WEIGHTS)
    network: Any = _empty(document["architecture"], directory / ARCH)
    weights = read_weights(directory / WEIGHTS)
    more = {name: weights.pop(name) for name in list(weights) if "kind" in document and is_beside(name)}
    load_strictly(network, weights, str(directory / WEIGHTS), assign=True)
    check(directory, WEIGHTS)
    classes = classes_in(document, directory, network.num_classes)
    try:
        model = _class_of(document["kind"]).restored(network, document, more) if "kind" in document else network.eval()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{directory / ARCH}: damaged: no such network ({error}){AGAIN}") from None
    model.classes, model.preprocessing = classes, preprocessing_in(document)  # type: ignore[assignment]
    model.transform = transform_in(document, directory)  # type: ignore[assignment]
    for what, value in (("width", width), ("budget", budget)):
        if value is not None:
            _switch(model, what, value, directory)
    return model


def _class_of(kind: str) -> Any:
    module, _, name = KINDS[kind].rpartition(".")
    return getattr(import_module(f"lightning_vitc.{module}"), name)


def _switch(model: Model, what: str, value: str | float, directory: Path) -> None:
    switch: Callable[[str | float], None] | None = getattr(model, f"set_{what}", None)
    if switch is None:
        raise UserError(f"{what}: {directory} does not switch its {what}; leave it out")
    switch(value)


def transform(directory: str | Path) -> Transform:
    """From an image of Pillow to what the model in an exported directory reads: float32 [C, H, W].

    Raises:
        UserError: where the directory is no export, or does not say how.
    """
    found = transform_in(read_arch(directory), directory)
    if found is None:
        raise UserError(f"{Path(directory) / ARCH}: does not say how an image becomes an input (preprocessing)")
    return found


def check(directory: str | Path, name: str) -> Path:
    """The path of a file that belongs to the directory's `arch.json`.

    Raises:
        UserError: where it is missing, was changed, or comes from another export.
    """
    document, path = read_arch(directory), _must_be_there(Path(directory), name)
    if (document.get("files") or {}).get(name) != _digest_of_file(path):
        raise UserError(f"{path}: not the file that {ARCH} describes{AGAIN}")
    if name == WEIGHTS:
        with safe_open(path, "pt") as file:
            belongs = (file.metadata() or {}).get(DIGEST)
        if belongs != _digest_of_architecture(document["architecture"], document):
            raise UserError(f"{Path(directory) / ARCH}: not the architecture that {WEIGHTS} was written for{AGAIN}")
    return path


def _must_be_there(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        there = ", ".join(form for form, file in FILES.items() if (directory / file).is_file())
        rest = f"{directory} was exported as {there}" if there else "half of an export; export the model again"
        raise UserError(f"{path}: no such file; {rest}")
    return path


def _empty(architecture: dict[str, Any], path: Path) -> nn.Module:
    try:
        with torch.device("meta"):
            spec = ArchSpec.from_dict(architecture)
            return network_of(spec).build(spec, {})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ArithmeticError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no such network can be built ({type(error).__name__}: {error})") from None


Complete = Callable[[Path], dict[str, Any]]


def save(model: Model, directory: str | Path, facts: dict[str, Any], complete: Complete | None = None) -> None:
    """Write the directory whole, or leave what is there.

    Args:
        model: a compacted model, or one that holds several.
        directory: a new one, or an earlier export, which is replaced.
        facts: `method`, `budget`, `accuracy`, `preprocessing`, `provenance`, ... for `arch.json` and the card.
        complete: writes other formats into the folder it is given, and returns more facts.

    Raises:
        UserError: where the directory holds something else or cannot be written.
    """

    def fill(folder: Path) -> None:
        _write(model, folder, facts, complete)

    _replace(directory, fill)


def save_several(models: Mapping[str, tuple[Model, dict[str, Any], Complete | None]], directory: str | Path) -> None:
    """Write several models into folders of one directory, whole as `save` does; the values are its arguments."""
    _replace(directory, lambda folder: _write_several(models, folder))


def write_several(models: Mapping[str, tuple[Model, dict[str, Any], Complete | None]], directory: Path) -> None:
    """The same, in place of whatever is there.

    Raises:
        OSError: where it cannot be written.
    """
    with swapped_in(directory) as folder:
        _write_several(models, folder)


def check_target(directory: str | Path) -> None:
    """Refuse to write over what is no export.

    Raises:
        UserError: where the directory is a file or holds something else.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise UserError(f"--out: {directory} is a file; name a directory")
    ours = any((target / name).is_file() for name in (ARCH, SEVERAL))
    if target.exists() and not ours and any(target.iterdir()):
        raise UserError(f"--out: {directory} is not empty and no exported model; name another directory")


def _replace(directory: str | Path, fill: Callable[[Path], None]) -> None:
    check_target(directory)
    try:
        with swapped_in(Path(directory)) as folder:
            fill(folder)
    except OSError as error:
        raise UserError(f"--out: {directory} cannot be written ({error.strerror or error})") from None


def _write(model: Model, folder: Path, facts: dict[str, Any], complete: Complete | None) -> None:
    fields, weights = model.stored() if isinstance(model, Elastic) else ({}, model.state_dict())
    full = model.full if isinstance(model, Elastic) else model
    architecture = json.loads(ArchSpec.of(full).to_json())
    (folder / WEIGHTS).write_bytes(_serialize(weights, _digest_of_architecture(architecture, {**fields, **facts})))
    facts = {**facts, **(complete(folder) if complete else {})}
    files = {path.name: _digest_of_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    document = {"format": FORMAT, "architecture": architecture, "files": files, **fields, **facts}
    (folder / ARCH).write_text(json.dumps(sealed(document), indent=1) + "\n")
    (folder / CARD).write_text(model_card(ArchSpec.of(full), {**fields, **facts}))


def _write_several(models: Mapping[str, tuple[Model, dict[str, Any], Complete | None]], folder: Path) -> None:
    for name, (model, facts, complete) in models.items():
        (folder / name).mkdir()
        _write(model, folder / name, facts, complete)
    (folder / SEVERAL).write_text(json.dumps(sealed({"format": FORMAT, "models": list(models)})) + "\n")


def _serialize(weights: dict[str, Tensor], digest: str) -> bytes:
    """The same bytes for the same weights: safetensors itself writes its header in any order.

    And not by its `save_file`, which makes files that only the owner can read.
    """
    metadata = {"format": "pt", DIGEST: digest}
    content = serialize({name: weight.contiguous() for name, weight in weights.items()}, metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _digest_of_architecture(architecture: dict[str, Any], document: dict[str, Any]) -> str:
    """Of the shape, of the names of the classes, and of what `Elastic.stored` adds."""
    how = {key: document[key] for key in ("kind", "widths", "settings", "classes") if document.get(key)}
    return _digest(json.dumps({**architecture, **how}, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
