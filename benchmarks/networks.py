"""Every method on every family of networks, at a size that trains in minutes; and what half of their MACs is worth.

Three parts, each a section of one document: what the methods leave of small networks of digits and how far the network
that was cut out is from where it was cut, latencies of real networks (random weights, whose values do not matter for
speed), and the lines of each family. A run or a latency that was made before is read from below `--runs`.
"""

import argparse
import json
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from study import REPOSITORY, Run, execute, markdown, slug, write_section

from lightning_vitc import ArchSpec, costs
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked
from lightning_vitc.budget.sketch import sketch_of
from lightning_vitc.budget.stacks import necessary
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.measuring.benchmark import benchmark
from lightning_vitc.measuring.candidates import candidate_of
from lightning_vitc.measuring.subjects import Settings
from lightning_vitc.networks.backbone import Backbone, template
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.pipeline.finished import networks_of_run
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import BudgetConfig, ModelConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "networks.md"
FAMILIES = {  # a base of an experiment, or a model of the size of `base/digits.yaml`
    "plain ViT": "deit_tiny_patch16_224",
    "Swin": "swin_digits",
    "DINOv3": "vit_small_patch16_dinov3",
    "BEiT": "beit_base_patch16_224",
    "T2T-ViT": "t2t_digits",
    "UniFormer": "uniformer_digits",
    "ResNet": "resnet_digits",
    "MobileNetV2": "mobilenet_digits",
}
SMALL = {"embed_dim": 96, "depth": 4, "num_heads": 6}  # of those that are named alone, in every experiment
SHORT = ("optimizer.warmup_epochs=1",)
FEW = (*SHORT, "data.num_samples=50", "data.batch_size=25", "trainer.max_epochs=30", "budget.drop_blocks=1")
CANDIDATES = {"UniFormer": ("method.candidates=[3,4]",)}  # by default none: so few blocks attend
UNDEFINED = {("ResNet", "magnitude"), ("MobileNetV2", "magnitude")}  # one-shot pruning is of heads and channels in step
METHODS = {
    "UVC": ("uvc_digits", (*SHORT, "budget.macs=60%", "trainer.max_epochs=3", "method.finetune_epochs=3")),
    "USDC": ("usdc_digits", (*SHORT, "budget.macs=80%", "trainer.max_epochs=3", "method.finetune_epochs=3")),
    "magnitude": ("magnitude_digits", (*SHORT, "budget.macs=60%", "method.finetune_epochs=6")),
    "DC-ViT": ("dcvit_digits", (*FEW, "method.synthetic.iterations=40")),
    "PRACTISE": ("practise_digits", FEW),
    "Scala": ("scala_digits", (*SHORT, "method.granularity=0.25", "trainer.max_epochs=6")),
}
MODELS = ("swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3", "t2t_vit_14", "resnet34", "mobilenetv2_100",
          "uniformer_small_plus")  # fmt: skip
ROUNDS = {1: 20, 16: 5}  # interleaved, by batch size
RUNTIMES = {"eager": Settings(), "onnxruntime": Settings(formats=("onnx",))}


def main() -> None:
    """Run and measure what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "studies" / "networks")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=tuple(FAMILIES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=tuple(METHODS))
    parser.add_argument("--parts", nargs="+", default=["methods", "latency", "lines"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.runs.absolute()
    if "methods" in args.parts:
        write_methods(folder, args.families, args.methods, args.jobs)
    if "latency" in args.parts:
        write_latencies(folder)
    if "lines" in args.parts:
        write_section(DOCUMENT, "lines", lines())


# Every method on every family


def write_methods(folder: Path, families: list[str], methods: list[str], jobs: int) -> None:
    """The table of all runs; those that are refused say why instead."""
    dense = {family: Run(slug(family), "dense_digits", 0, (*model_of(family), *SHORT, "trainer.max_epochs=20"))
             for family in families}  # fmt: skip
    execute(dense.values(), folder, jobs)
    runs = {(family, method): run_of(family, method, dense[family].directory(folder))
            for family in families for method in methods if (family, method) not in UNDEFINED}  # fmt: skip
    execute(runs.values(), folder, jobs)
    rows = [row(family, method, run, folder, dense[family]) for (family, method), run in runs.items()]
    header = ["", "", "top-1 of dense", "MACs asked", "MACs reached", "top-1", "masked - compacted", "CPU minutes"]
    results = [run.result(folder) for run in (*dense.values(), *runs.values())]
    write_section(DOCUMENT, "methods", markdown(header, rows), results)


def run_of(family: str, method: str, dense: Path) -> Run:
    """A method's run from the dense network of its family."""
    experiment, settings = METHODS[method]
    original = ("teacher.train=false", "teacher.epochs=null", f"teacher.run={dense}")
    named = CANDIDATES.get(family, ()) if method in ("DC-ViT", "PRACTISE") else ()
    return Run(slug(f"{family} {method}"), experiment, 0, (*model_of(family), *settings, *named, *original))


@cache
def model_of(family: str) -> tuple[str, ...]:
    """Overrides that choose its network."""
    base = REPOSITORY / "experiments" / "base" / f"{FAMILIES[family]}.yaml"
    named = {"model": {"name": FAMILIES[family], **SMALL}}
    keys: Any = OmegaConf.to_container(OmegaConf.load(base)) if base.exists() else named
    return tuple(
        f"{section}.{key}={'null' if value is None else json.dumps(value)}"
        for section, values in keys.items() if isinstance(values, dict) for key, value in values.items()
    )  # fmt: skip


def row(family: str, method: str, run: Run, folder: Path, dense: Run) -> list[str]:
    """What a run has reached; of Scala's widths the half and the full one."""
    result = run.result(folder)
    whole, budget = result["dense"], result["budget"]
    shown = [found for found in result["rows"] if found.get("width") in (None, 0.5, 1.0)][:2]
    shown = shown if method in ("Scala", "USDC") else shown[:1]
    asked = "widths .5 and 1" if method == "Scala" else budget.get("macs", "1 block less")
    reached = ", ".join(f"{found.get('expected_macs', found['macs']) / whole['macs']:.1%}" for found in shown)
    top1 = ", ".join(f"{found['top1']:.2f}" for found in shown)
    apart = f"{difference(original(dense.directory(folder)), method):.0e}"
    return [family, method, f"{whole['top1']:.2f}", asked, reached, top1, apart, f"{run.cpu_minutes(folder):.1f}"]


@cache
def original(run: Path) -> Backbone:
    """The network of a dense run."""
    _, networks = networks_of_run(run)
    return networks[0].module.eval()  # type: ignore[return-value]


@torch.no_grad()
def difference(network: Backbone, method: str) -> float:
    """Largest difference of logits between what is cut in place and what is cut out, of random images."""
    torch.manual_seed(0)
    spec = network.spec
    images = torch.randn(4, spec.in_chans, *spec.img_size)
    if method == "Scala":
        kept = slice_width(spec, Fraction(1, 2))
        return float((network(images, kept=kept) - compact(network, kept)(images)).abs().max())
    masks = Masks.full(spec)
    if method in ("DC-ViT", "PRACTISE"):
        masks.branches[int((~necessary(spec)).nonzero()[-1])] = False
    else:
        masks.dims[:, :, ::2], masks.channels[:, ::3] = False, False
    small = compact(network, kept_of(spec, masks))
    return float((masked(network, masks)(images) - small(images)).abs().max())


# Half of the MACs


def write_latencies(folder: Path) -> None:
    """Of real networks at half of their MACs, beside the dense ones."""
    found = {(model, size): measured(folder, model, size) for model in MODELS for size in ROUNDS}
    rows = []
    for model in MODELS:
        cells = [f"{row['latency_ms']['p50']:.1f}, {row['speedup']:.2f}, **{row['realised']:.2f}**"
                 for size in ROUNDS for row in found[model, size]["rows"]]  # fmt: skip
        rows.append([model, f"{costs.macs(dense_of(model)) / 1e9:.2f} G", *cells])
    header = ["ms, speed-up, **realized**", "MACs", *(f"{runtime}, batch {size}" for size in ROUNDS
                                                      for runtime in RUNTIMES)]  # fmt: skip
    places = [document["environment"] for document in found.values()]
    commits = ", ".join(sorted({str(place["commit"]) for place in places}))
    facts = (
        f"Pruned to half of the MACs in multiples of 8; cpu, one thread, torch {places[0]['versions']['torch']}, "
        f"commit {commits}; medians of interleaved rounds: "
        + ", ".join(f"{rounds} of batch {size}" for size, rounds in ROUNDS.items())
    )
    write_section(DOCUMENT, "latency", f"{facts}.\n\n{markdown(header, rows)}")


@cache
def dense_of(model: str) -> ArchSpec:
    """A real network for images of 224 pixels."""
    return template(ModelConfig(name=model, img_size=224)).spec


def measured(folder: Path, model: str, size: int) -> dict[str, Any]:
    """The rows of a half network in every runtime, from the file of an earlier run where there is one."""
    path = folder / "latency" / f"{model}-{size}.json"
    if not path.exists():
        torch.manual_seed(0)
        dense = dense_of(model)
        units = UnitCosts.of(dense)
        half = sketch_of(dense, units, units.dense // 2, BudgetConfig(round_to=8)).spec
        reference = candidate_of("dense", dense)
        small = candidate_of("half", half, dense=reference)
        found = [row for settings in RUNTIMES.values()
                 for row in benchmark([small], replace(settings, batch_sizes=(size,), repeats=ROUNDS[size], warmup=2))
                 if row["name"] == "half"]  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": environment("cpu"), "rows": found}))
    return json.loads(path.read_text())


# Lines


def lines() -> str:
    """Of every family's folder: without and with torch, and what all of them share."""
    folder = REPOSITORY / "lightning_vitc" / "networks"
    rows = []
    for family in sorted(path for path in (folder / "families").iterdir() if (path / "shape.py").exists()):
        count = {file.name: len(file.read_text().splitlines()) for file in family.glob("*.py")}
        rest = sum(number for name, number in count.items() if name != "shape.py")
        rows.append([family.name, str(count["shape.py"]), str(rest)])
    shared = [file for file in folder.rglob("*.py") if "families" not in file.parts]
    total = sum(len(file.read_text().splitlines()) for file in shared)
    return f"{markdown(['', 'without torch', 'with torch'], rows)}\n\nWhat all share: {total} lines."


if __name__ == "__main__":
    main()
