"""What the arguments of `vitc benchmark` name: exported directories, and any model of timm."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.artifacts.formats import FILES, RUNNABLE
from lightning_vitc.data import VisionData
from lightning_vitc.errors import UserError
from lightning_vitc.errors.suggest import did_you_mean
from lightning_vitc.measuring.exported import pipeline_of_export
from lightning_vitc.measuring.subjects import Candidate
from lightning_vitc.networks import costs
from lightning_vitc.networks.elastic import Elastic, ElasticViT
from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import create_timm, is_model, known_names
from lightning_vitc.schema import SOURCES


def candidates_of(sources: list[str], timm_arguments: dict[str, Any] | None = None) -> list[Candidate]:
    """The networks that the sources name; those from one dense network share it.

    Args:
        sources: exported directories, or names of timm, which get random weights.
        timm_arguments: for the latter.

    Raises:
        UserError: for a source that is neither.
    """
    dense: dict[ArchSpec, Candidate] = {}
    found: list[Candidate] = []
    named = [source for source in sources if not Path(source).is_dir()]
    for source in named:
        candidate = _of_timm(source, timm_arguments or {})
        if (spec := _spec_of(candidate.module)) is not None:
            dense.setdefault(spec, candidate)
        found.append(candidate)
    if timm_arguments and not named:
        raise UserError(f"{next(iter(timm_arguments))}: exported networks take no timm arguments")
    for source in sources:
        if Path(source).is_dir():
            found += [candidate for path in directories_of(Path(source)) for candidate in _of_directory(path, dense)]
    return found


def candidate_of(
    name: str, spec: ArchSpec, module: torch.nn.Module | None = None, dense: Candidate | None = None,
    files: dict[str, Path] | None = None, macs: int | None = None,
    data: VisionData | None = None,
) -> Candidate:  # fmt: skip
    """A network of this library; with random weights where there is no module.

    Its MACs are those of the spec, unless they are given: of a network that skips by the image, the expected ones.
    Such a network is timed on the test images of `data`.
    """
    if module is None:
        module = network_of(spec).build(spec, {}).eval()
        network_of(spec).initialize(module)
    shape = (spec.in_chans, *spec.img_size)
    images = None if data is None or not spec.is_gated else partial(data.spread_images, "test")
    executed = None if spec.is_gated else costs.executed_beside(spec).get("executed_macs")
    return Candidate(name, module, macs or costs.macs(spec), shape, dense, files or {}, images, executed)


def directories_of(path: Path) -> list[Path]:
    """The folders of an export of several models; the path itself where it is none."""
    several = (path / arch_json.SEVERAL).is_file()
    return [path / name for name in arch_json.models_in(path)] if several else [path]


def _of_directory(path: Path, dense: dict[ArchSpec, Candidate]) -> list[Candidate]:
    document, model, name = arch_json.read_arch(path), artifact.load(path), path.name
    reference = None
    if document.get("dense"):
        spec = ArchSpec.from_dict(document["dense"])
        reference = dense[spec] = dense.get(spec) or candidate_of(spec.name, spec)
    if isinstance(model, ElasticViT):
        networks = {f"{name} at {float(width):g}": model.network_at(width) for width in model.cuts}
        return [candidate_of(key, ArchSpec.of(network), network, reference) for key, network in networks.items()]
    model = model.network if isinstance(model, Elastic) else model  # as large as it is
    files = {form: artifact.check(path, FILES[form]) for form in RUNNABLE[1:] if (path / FILES[form]).is_file()}
    expected = (document.get("costs") or {}).get("expected_macs")
    spec = ArchSpec.of(model)
    data = _data_of(path, document) if spec.is_gated else None
    return [candidate_of(name, spec, model, reference, files, expected, data)]


def _data_of(path: Path, document: dict[str, Any]) -> VisionData | None:
    """What the exported network is evaluated on, where that can be read here."""
    try:
        data = pipeline_of_export(path, document).data
        data.spread_images("test", 1)
    except UserError as error:
        warnings.warn(f"{path}: timed on random images, which its gates have not seen ({error})", stacklevel=2)
        return None
    return data


def _of_timm(name: str, arguments: dict[str, Any]) -> Candidate:
    if not is_model(name) and not name.startswith(SOURCES):
        hint = did_you_mean(name, known_names(), count=3)
        raise UserError(f"{name}: neither an exported directory nor a model of timm{hint}")
    module = create_timm(name, **arguments).eval()
    spec = _spec_of(module)
    if spec is not None:
        spec.with_img_size(spec.img_size)  # which refuses what the patches do not cover
        return Candidate(name, module, costs.macs(spec), (spec.in_chans, *spec.img_size))
    shape = _input_of(module, arguments)
    return Candidate(name, module, _counted_macs(name, arguments, shape), shape)


def _spec_of(module: Any) -> ArchSpec | None:
    try:
        return ArchSpec.of(module)
    except UserError:
        return None


def _input_of(module: Any, arguments: dict[str, Any]) -> tuple[int, int, int]:
    channels, height, width = module.pretrained_cfg["input_size"]
    size = arguments.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    return arguments.get("in_chans", channels), height, width


def _counted_macs(name: str, arguments: dict[str, Any], shape: tuple[int, int, int]) -> int:
    """By running the model on the `meta` device, where no fused kernel hides a product."""
    with torch.device("meta"):
        module, images = create_timm(name, **arguments).eval(), torch.empty(1, *shape)
    module.requires_grad_(False)  # the counter follows the gradients of what requires them
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(images)
    except AssertionError as error:
        if not arguments:
            raise
        raise UserError(f"--{next(iter(arguments)).replace('_', '-')}: {name} does not take it ({error})") from None
    return counter.get_total_flops() // 2
