"""`vitc export`: networks of a finished run, in the formats that were asked for, each checked against PyTorch."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_vitc.artifacts import artifact
from lightning_vitc.artifacts.formats import FILES, RUNNABLE
from lightning_vitc.errors import RunFailure, UserError
from lightning_vitc.exporting.deployed import OnnxNetwork, Pt2Network
from lightning_vitc.exporting.write_formats import write_formats
from lightning_vitc.networks.elastic import ElasticViT
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import create_timm
from lightning_vitc.pipeline.evaluation import evaluate
from lightning_vitc.pipeline.finished import networks_of_run, pick
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.results import environment
from lightning_vitc.pipeline.trainers import test_trainer
from lightning_vitc.schema.split_names import split_of

TOLERANCE = 1e-4  # of a logit
COSTS = ("expected_macs", "worst_macs", "latency_ms", "worst_latency_ms")  # columns of the result that are exported
SAME = 0.01  # percent of top-1: no image of up to 10,000, one near tie in as many


def export(
    run: str, out: str, *, width: str | None = None, variant: str | None = None,
    formats: list[str] | None = None, license_name: str | None = None, evaluated: bool = True,
) -> list[str]:  # fmt: skip
    """Write one network of a finished run into a directory, or several into folders of it.

    Args:
        run: its directory.
        out: where to write.
        width: one width ratio, or several with commas; default: the largest network that the method made.
        variant: a network of the table by its name, or a variant the method offers, such as Scala's `elastic`.
        formats: names of `formats.FILES`.
        license_name: for the model card.
        evaluated: also compare the accuracy of every format; else only its logits.

    Returns:
        The names of the networks.

    Raises:
        UserError: where the run has no such network, or the network no such format.
        RunFailure: where a format does not compute what PyTorch does.
    """
    artifact.check_target(out)
    pipeline, _ = networks_of_run(run)
    exports = _Exports(pipeline, run, formats or ["safetensors"], license_name, evaluated)
    models = exports.chosen(width, variant)
    if len(models) == 1:
        [(model, *arguments)] = models.values()
        artifact.save(model, out, *arguments)
    else:
        artifact.save_several(models, out)
    return list(models)


class _Exports:
    """What the models of one export share."""

    def __init__(self, pipeline: Pipeline, run: str, formats: list[str], license_name: str | None, evaluated: bool):
        self.pipeline, self.run, self.evaluated = pipeline, run, evaluated
        self.formats, self.license_name = formats, license_name
        self.result = pipeline.directory.read_result()

    def chosen(self, width: str | None, variant: str | None) -> dict[str, Any]:
        """Arguments of `artifact.save` without the directory, by name."""
        if variant in self.pipeline.variants:
            return {variant: self._variant(variant, width)}
        if variant is not None:
            return {variant: self._network(self._by_name(variant, width))}
        asked = [None] if width is None else width.split(",")
        networks = [pick(self.pipeline, each, self.run) for each in asked]
        return {network.name: self._network(network) for network in networks}

    def _by_name(self, name: str, width: str | None) -> Any:
        if width is not None:
            raise UserError(f"--width: {name} is one network; leave the option out")
        for network in self.pipeline.networks:
            if network.name == name:
                return network
        known = [*self.pipeline.variants, *(network.name for network in self.pipeline.networks)]
        raise UserError(f"--variant: {self.run} has no {name}; it has {', '.join(known)}")

    def _variant(self, name: str, width: str | None) -> tuple[Any, dict[str, Any], None]:
        if others := [form for form in self.formats if form != "safetensors"]:
            raise UserError(f"--formats: {others[0]} holds one width; name it by --width instead of --variant {name}")
        model = self.pipeline.variants[name]()
        if width is not None:
            if not isinstance(model, ElasticViT):
                raise UserError(f"--width: {name} does not switch its width; leave the option out")
            model = model.restricted(width.split(","))
        accuracy = {f"top1 at width {row['width']:g}": row["top1"] for row in self.result["rows"] if "width" in row}
        return model, self._facts({}, accuracy if width is None else {}), None

    def _network(self, network: Any) -> tuple[nn.Module, dict[str, Any], artifact.Complete]:
        rows = [row for row in [self.result["dense"], *self.result["rows"]] if row and row["name"] == network.name]
        accuracy = {key: rows[0][key] for key in ("top1", "top5")} if rows else {}
        facts = self._facts(self._budget(network), accuracy)
        if network.name == self.pipeline.dense_name:
            facts |= {"method": "dense", "budget": {}}
        if costs := {key: rows[0][key] for key in COSTS if rows and key in rows[0]}:
            facts["costs"] = costs
        return network.module, facts, partial(self._complete, network.module)

    def _budget(self, network: Any) -> dict[str, Any]:
        """What the network had to fit: the budget of its run, and its width."""
        width = {key: network.columns[key] for key in ("width",) if key in network.columns}
        return {**width, **(self.result.get("budget") or {})}

    def _facts(self, budget: dict[str, Any], accuracy: dict[str, float]) -> dict[str, Any]:
        pipeline, result = self.pipeline, self.result
        dense = result["dense"] or {}
        return {
            "method": pipeline.experiment.method_name,
            "budget": budget,
            "accuracy": accuracy,
            "split": split_of(result),
            **{key: result[key] for key in ("images", "left_out") if result.get(key)},
            "license": self.license_name,
            "dense": json.loads(pipeline.dense_spec.to_json()),
            "dense_accuracy": {key: dense[key] for key in ("top1", "top5") if key in dense},
            "preprocessing": pipeline.data.preprocessing,
            "classes": list(pipeline.data.classes),
            "experiment": pipeline.experiment.to_container(),
            "provenance": environment(result["environment"]["device"]) | {"run": self.run, "seed": result["seed"]},
        }

    def _complete(self, model: nn.Module, folder: Path) -> dict[str, Any]:
        """Write the other formats, compare them with the model, and say what was found."""
        data = self.pipeline.data
        write_formats(model, folder, self.formats, data.preprocessing, data.classes)
        written = {form: folder / FILES[form] for form in FILES if form in self.formats or form == "safetensors"}
        found: dict[str, dict[str, Any]] = {form: {"bytes": _size(path)} for form, path in written.items()}
        networks = {form: _opened(form, path) for form, path in written.items() if form != "safetensors"}
        for form, network in networks.items():
            found[form]["max_difference"] = _difference(model, network)
            if form != "int8" and found[form]["max_difference"] > TOLERANCE:
                raise RunFailure(f"{form}: a logit differs from PyTorch's by {found[form]['max_difference']:.1e}")
        if networks and self.evaluated:
            ours = {form: network for form, network in networks.items() if form in RUNNABLE}
            self._compare_accuracy({"safetensors": model, **ours}, found)
        return {"formats": found}

    def _compare_accuracy(self, networks: dict[str, nn.Module], found: dict[str, dict[str, Any]]) -> None:
        data, experiment = self.pipeline.data, self.pipeline.experiment
        accuracy = evaluate(test_trainer(experiment), networks, data.num_classes, data.loader_of("test")).accuracy
        for form, values in accuracy.items():
            found[form] |= values
            if form != "int8" and abs(values["top1"] - accuracy["safetensors"]["top1"]) > SAME:
                raise RunFailure(f"{form}: top-1 is {values['top1']}, PyTorch's {accuracy['safetensors']['top1']}")


def _opened(form: str, path: Path) -> nn.Module:
    if form == "timm":
        return create_timm(f"local-dir:{path}", pretrained=True).eval()
    return Pt2Network(path) if form == "pt2" else OnnxNetwork(path)


def _difference(model: nn.Module, network: nn.Module) -> float:
    """The largest difference of a logit, at batch sizes that were not exported."""
    spec, generator = ArchSpec.of(model), torch.Generator().manual_seed(0)
    largest = 0.0
    for size in (1, 3):
        images = torch.randn(size, spec.in_chans, *spec.img_size, generator=generator)
        with torch.no_grad():
            largest = max(largest, float((network(images) - model(images)).abs().max()))
    return largest


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())
