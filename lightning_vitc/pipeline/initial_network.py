"""Where a network starts from: a timm model, or one that was compressed before and is taken to other data."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.data.classes import shown
from lightning_vitc.errors import UserError
from lightning_vitc.networks import backbone, costs
from lightning_vitc.networks.backbone import Backbone, create_backbone, from_spec, timm_kwargs
from lightning_vitc.networks.elastic import Elastic
from lightning_vitc.networks.families.family import CLASSIFIERS
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import RATES
from lightning_vitc.networks.weights.resampling import resampled
from lightning_vitc.networks.weights.strict import load_strictly
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.networks import Network, Stored, stored
from lightning_vitc.schema import ModelConfig, is_directory_name


def template(config: ModelConfig, num_classes: int | None = None) -> Backbone:
    """The network of a `model` section without weights: what it is and costs."""
    if not is_directory_name(config.name):
        return backbone.template(config, num_classes)
    start = _compressed(config.name)
    with torch.device("meta"):
        empty = from_spec(_wanted(config, ArchSpec.of(start.network), num_classes), fresh=False)
    empty.pretrained_cfg = start.preset
    return empty


def starting_network(config: ModelConfig, num_classes: int, classes: Sequence[str] | None = None) -> Backbone:
    """The network of a `model` section for so many classes, and, where they are known, of these names.

    A classifier for other classes is a new one, and `model.new_head` asks for a new one anyway; one for the same
    classes in another order is put into theirs. Position embeddings are interpolated to another image size.

    Raises:
        UserError: where the model cannot be built, or its weights do not fit.
    """
    if not is_directory_name(config.name):
        return _of_timm(config, num_classes)
    start = _compressed(config.name)
    old, weights = ArchSpec.of(start.network), start.network.state_dict()
    spec = _wanted(config, old, num_classes)
    started = from_spec(spec, rates={key: rate for key in RATES if (rate := getattr(config, key))})
    rows = None if config.new_head else _rows(start, num_classes, classes)
    if rows is None and num_classes == old.num_classes and not config.new_head:
        warnings.warn(f"model.name: {config.name} knows other classes ({shown(start.classes or ())}) than the data; "
                      "its classifier is a new one", stacklevel=2)  # fmt: skip
    weights = resampled(weights, started, config.name, config.resample_antialias)
    weights = _with_own_head(weights, started) if rows is None else with_rows(weights, rows)
    load_strictly(started, weights, config.name)
    started.pretrained_cfg = start.preset
    return started


def knows(config: ModelConfig, classes: Sequence[str]) -> bool:
    """Whether the compressed model of a `model` section has a classifier for these classes, in whatever order."""
    return _rows(_compressed(config.name), len(classes), classes) is not None


def rows_of(known: Sequence[str], classes: Sequence[str]) -> list[int]:
    """For every one of the classes its number among those that are known."""
    number = {name: index for index, name in enumerate(known)}
    return [number[name] for name in classes]


def with_rows(weights: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """The weights with the classifier's rows in this order."""
    return {name: value[rows] if name.startswith(CLASSIFIERS) else value for name, value in weights.items()}


def _rows(start: "_Start", num_classes: int, classes: Sequence[str] | None) -> list[int] | None:
    """Of its classifier, in the order of the classes; `None` where it is for other ones."""
    if start.classes is not None and classes is not None:
        return rows_of(start.classes, classes) if {*start.classes} == {*classes} else None
    return list(range(num_classes)) if num_classes == start.network.num_classes else None


def _of_timm(config: ModelConfig, num_classes: int) -> Backbone:
    options = {"new_head": config.new_head, "resample_antialias": config.resample_antialias}
    return create_backbone(
        config.name, config.pretrained, **options, **timm_kwargs(config) | {"num_classes": num_classes}
    )


@dataclass(frozen=True)
class _Start:
    """A network that was compressed before, how its images are prepared, and its classes where they are known."""

    network: nn.Module
    preset: dict[str, Any]
    classes: tuple[str, ...] | None


@cache
def _compressed(name: str) -> _Start:
    """What an exported directory or a finished run holds."""
    try:
        return _of_directory(name)
    except UserError as error:
        raise UserError(f"model.name: {str(error).removeprefix('model.name: ')}") from None


def _of_directory(name: str) -> _Start:
    if not Path(name).is_dir():
        raise UserError(f"'{name}' is neither an exported model nor a finished run; make it first")
    if (Path(name) / arch_json.ARCH).is_file() or not RunDirectory(name).config.is_file():
        network: Any = _without_gates(_plain(artifact.load(name), name), name)
        return _Start(network, arch_json.preprocessing_in(arch_json.read_arch(name)), network.classes)
    found, chosen = _of_run(RunDirectory(name))
    return _Start(_without_gates(chosen.module, name), found.facts["preprocessing"], tuple(found.facts["classes"]))


def _of_run(directory: RunDirectory) -> tuple[Stored, Network]:
    """What a finished run holds, and of it what its method made: by its budget, or the largest."""
    directory.must_be_complete()
    try:
        found = stored(directory.path)
    except UserError as error:
        raise UserError(f"{error}; start from an export of the run, which reads its checkpoints") from None
    if found is None:
        raise UserError(f"model.name: {directory.path} is of an earlier version; start from an export of it")
    within = (directory.read_result().get("budget") or {}).get("network")
    made = [network for network in found.networks if network.name != found.facts["dense_name"]] or found.networks
    return found, max(made, key=lambda network: (network.name == within, costs.macs(network.spec)))


def _plain(network: Any, name: str) -> nn.Module:
    if isinstance(network, Elastic):
        raise UserError(f"model.name: {name} holds several networks in one; export the one to start from")
    return network


def _without_gates(network: nn.Module, name: str) -> nn.Module:
    if ArchSpec.of(network).is_gated:
        raise UserError(f"model.name: {name} skips by the image; export the variant without gates to start from")
    return network


def _wanted(config: ModelConfig, spec: ArchSpec, num_classes: int | None) -> ArchSpec:
    spec = spec if num_classes is None else replace(spec, num_classes=num_classes)
    return spec if config.img_size is None else spec.with_img_size((config.img_size, config.img_size))


def _with_own_head(weights: dict[str, Tensor], network: Backbone) -> dict[str, Tensor]:
    own = {name: value for name, value in network.state_dict().items() if name.startswith(CLASSIFIERS)}
    return {name: value for name, value in weights.items() if not name.startswith(CLASSIFIERS)} | own
