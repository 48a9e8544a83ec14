"""`vitc evaluate`: accuracies of a run's networks, or of an exported directory in any of its formats."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lightning_vitc.artifacts import arch_json, artifact
from lightning_vitc.data.catalog import TREES
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.exporting.deployed import open_format
from lightning_vitc.measuring.exported import pipeline_of_export
from lightning_vitc.networks import costs
from lightning_vitc.networks.elastic import Elastic, ElasticViT
from lightning_vitc.networks.spec import ArchSpec, as_ratio
from lightning_vitc.pipeline.evaluation import evaluate
from lightning_vitc.pipeline.finished import networks_of_run, pick
from lightning_vitc.pipeline.limits import must_leave_a_batch
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.processes import part
from lightning_vitc.pipeline.trainers import test_trainer


@dataclass
class Candidate:
    """A network to evaluate, and what its row says beside the numbers."""

    name: str
    module: nn.Module
    spec: ArchSpec
    macs: int  # expected ones, where images differ
    columns: dict[str, Any] = field(default_factory=dict)


def evaluate_source(
    source: str,
    width: str | None,
    split: str,
    overrides: list[str],
    formats: list[str] | None = None,
    budget: str | None = None,
) -> list[dict[str, Any]]:
    """Rows with `name`, `macs`, `params`, `top1` and `top5` of a run's networks, or of an exported model.

    They say how many `images` of which `split` were read; where some cannot be used (`data.on_error=skip`), how many
    they `left_out`.

    Args:
        source: a run or an exported directory.
        width: one of several widths; default: all.
        split: `validation` or `test`.
        overrides: of the experiment.
        formats: of an exported directory; its rows then have a `format`. Default: the PyTorch model.
        budget: of an exported network that switches it, one or several with commas; default: the dense one.

    Raises:
        UserError: where there is no such network.
    """
    if fixed := [key for key in overrides if key.startswith(("model.", "method."))]:
        raise UserError(f"{fixed[0].partition('=')[0]}: {source} holds trained networks; leave the key out")
    if not Path(source).is_dir():
        raise UserError(f"{source}: no such directory; give a run or an exported model")
    if any((Path(source) / name).is_file() for name in (arch_json.ARCH, arch_json.SEVERAL)):
        pipeline, candidates = _exported(source, width, overrides, formats, budget)
    elif budget is not None:
        raise UserError(f"--budget: {source} is no exported directory; leave the option out")
    elif formats is not None:
        raise UserError(f"--formats: {source} is no exported directory; leave the option out")
    else:
        pipeline, networks = networks_of_run(source, overrides)
        chosen = networks if width is None else [pick(pipeline, width, source)]
        candidates = [Candidate(network.name, network.module, network.spec, network.macs) for network in chosen]
    return rows_of(source, split, pipeline, candidates)


def rows_of(source: str, split: str, pipeline: Pipeline, candidates: list[Candidate]) -> list[dict[str, Any]]:
    """What the candidates, which come from `source`, reach on the data of the pipeline's experiment."""
    pipeline.data.trainer = trainer = test_trainer(pipeline.experiment)  # each process reads its part
    pipeline.data.read_only(split)
    loader = pipeline.data.loader_of(split)
    must_leave_a_batch("limit_test_batches", pipeline.experiment.trainer.limit_test_batches, len(loader), split)
    _check_classes(source, split, pipeline, candidates[0].spec)
    modules = {str(number): candidate.module for number, candidate in enumerate(candidates)}
    evaluation = evaluate(trainer, modules, pipeline.data.num_classes, loader)
    read = {"split": pipeline.data.splits.name_of(split), "images": evaluation.images}
    read |= {"left_out": evaluation.left_out} if evaluation.left_out else {}
    part()
    return [
        {"name": candidate.name, **candidate.columns, "macs": candidate.macs, "params": costs.params(candidate.spec),
         **evaluation.accuracy[str(number)], **read}
        for number, candidate in enumerate(candidates)
    ]  # fmt: skip


def _check_classes(source: str, split: str, pipeline: Pipeline, spec: ArchSpec) -> None:
    """Refuse data of another number of classes, where names are not known; say where some have no images."""
    data, known = pipeline.data, spec.num_classes
    if data.num_classes != known:
        raise UserError(f"data.root: {data.config.root or data.config.name} has {counted(data.num_classes, 'class')}, "
                        f"and {source} knows {known}")  # fmt: skip
    there = len(np.unique(getattr(data.splits, split).targets))
    if there < known and data.config.name in TREES:
        of = f"{there} of the {counted(known, 'class')} of {source}"
        warnings.warn(f"data.root: {data.config.root} has {of}", stacklevel=3)


def _exported(
    source: str, width: str | None, overrides: list[str], formats: list[str] | None, budget: str | None
) -> tuple[Pipeline, list[Candidate]]:
    document = arch_json.read_arch(source)
    pipeline = pipeline_of_export(source, document, overrides)
    model, name = artifact.load(source), Path(source).name
    if budget is not None and not hasattr(model, "set_budget"):
        raise UserError(f"--budget: {source} does not switch its budget; leave the option out")
    if isinstance(model, ElasticViT):
        candidates = _at_widths(model, name, width, formats)
    elif width is not None:
        raise UserError(f"--width: {source} is one exported network; leave the option out")
    elif isinstance(model, Elastic):
        candidates = list(_within_budgets(model, name, budget, formats))
    else:
        spec = ArchSpec.of(model)
        macs = (document.get("costs") or {}).get("expected_macs") or costs.macs(spec)
        candidates = [
            Candidate(name, open_format(source, form), spec, macs, {"format": form}) for form in formats or []
        ]
        candidates = candidates or [Candidate(name, model, spec, macs)]
    return pipeline, candidates


def _within_budgets(model: Any, name: str, budget: str | None, formats: list[str] | None) -> Iterator[Candidate]:
    if formats not in (None, ["safetensors"]):
        raise UserError("--formats: a network that switches its budget has only safetensors")
    for each in (budget or "100%").split(","):
        model.set_budget(each)
        yield Candidate(name, model.network, model.spec, costs.macs(model.spec), {"budget": each})


def _at_widths(model: ElasticViT, name: str, width: str | None, formats: list[str] | None) -> list[Candidate]:
    if formats not in (None, ["safetensors"]):
        raise UserError("--formats: a network that switches its width has only safetensors")
    if width is not None:
        model = model.restricted([width])
    networks = {float(each): model.network_at(as_ratio(each)) for each in model.cuts}
    specs = {each: ArchSpec.of(network) for each, network in networks.items()}
    return [
        Candidate(name, network, specs[each], costs.macs(specs[each]), {"width": each})
        for each, network in networks.items()
    ]
