"""What training on many GPUs would take, on paper: `docs/scaling.md` from the cost model and figures measured here.

No GPU is used. Counted exactly: MACs and parameters (`networks.costs`), widths drawn by Scala. Measured on this
CPU: bytes that autograd keeps, operators of a step, images a loader worker decodes, and the step of USDC over a
dense one. Assumed, and changed by options: what the GPUs, the links and the hosts can do.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scaling_measured import MODELS, Figures, measured, timings
from study import REPOSITORY, markdown, write_section

from lightning_vitc import costs, create_backbone
from lightning_vitc.config import load_experiment
from lightning_vitc.few_shot.units import chosen_candidates
from lightning_vitc.pipeline.results import environment

DOCUMENT = REPOSITORY / "docs" / "scaling.md"
NODES = (1, 2, 4, 8, 16, 32, 64)
BATCH = {"dense": 1024, "uvc": 256, "usdc": 256, "scala": 1024}  # images of a step in the recipes of `experiments/`
WEAK = 128  # images a GPU where the batch grows with the machine


@dataclass(frozen=True)
class Cluster:
    """A node of eight NVIDIA H100 SXM (data sheet: 989 TFLOPS in bf16, 80 GB, NVLink 900 GB/s both ways together)."""

    gpus: int = 8
    peak_tflops: float = 989.0
    utilization: float = 0.35  # of the peak, by matrix products in a training step: assumed
    memory_gb: float = 80.0
    nvlink_gbs: float = 450.0  # one way, of a GPU
    node_gbs: float = 25.0  # of a node to the others: one port of 200 Gb/s
    launch_us: float = 5.0  # of the host, for an operator: assumed
    cores: int = 14  # CPU cores for a GPU
    jpeg_kb: float = 110.0  # of an image of ImageNet


@dataclass(frozen=True)
class Step:
    """A training step on a number of nodes, in seconds."""

    images: float  # of a GPU
    compute: float
    launches: float
    reduction: float
    exposed: float  # of the reduction, beyond the backward pass it hides behind
    loader_rate: float  # images a second of a GPU that its cores decode

    @property
    def seconds(self) -> float:
        """Launching and computing overlap; so do loading and both."""
        return max(max(self.compute, self.launches) + self.exposed, self.images / self.loader_rate)

    @property
    def limit(self) -> str:
        """What the most time goes into."""
        if self.images / self.loader_rate >= self.seconds:
            return "loaders"
        times = {"compute": self.compute, "launches": self.launches, "all-reduce": self.exposed}
        return max(times, key=lambda name: times[name])


def step(figures: Figures, cluster: Cluster, nodes: int, images: float) -> Step:
    """The formulas of the document, for so many images a GPU."""
    rate = 1e12 * cluster.peak_tflops * cluster.utilization
    compute = images * figures.flops * figures.overhead / rate
    gradient = 4.0 * figures.params
    within = 2 * (cluster.gpus - 1) / cluster.gpus * gradient / (1e9 * cluster.nvlink_gbs)
    between = 2 * (nodes - 1) / nodes * gradient / (1e9 * cluster.node_gbs)
    hidden = images * figures.last_backward_flops / rate
    return Step(
        images, compute, 1e-6 * cluster.launch_us * figures.operators, within + between,
        max(0.0, within + between - hidden), cluster.cores * figures.images_per_core,
    )  # fmt: skip


def memory_gb(figures: Figures, images: float, recomputed: bool) -> float:
    """fp32 weights, gradients and AdamW's moments, bf16 copies of the weights, a teacher, and activations."""
    activations = figures.recomputed_bytes if recomputed else figures.activation_bytes
    fixed = (16 + 2) * figures.params + (4 + 2) * figures.teacher_params
    return (fixed + images * activations) / 1e9


def facts(figures: dict[tuple[str, str], Figures]) -> str:
    """Table of what one device does."""
    rows = [
        [f"{model}, {method}", f"{found.params / 1e6:.1f} M", f"{found.flops / 1e9:.0f} G", f"{found.overhead:.2f}",
         f"{4e-6 * found.params:.0f} MB", f"{found.last_backward_flops / found.flops:.0%}", f"{found.operators:,.0f}",
         f"{found.activation_bytes / 1e6:.0f} MB", f"{found.recomputed_bytes / 1e6:.0f} MB",
         f"{memory_gb(found, 128, False):.1f} GB", f"{memory_gb(found, 128, True):.1f} GB",
         f"{12e-6 * found.params:,.0f} MB"]
        for (model, method), found in figures.items()
    ]  # fmt: skip
    header = [
        "", "parameters", "FLOPs an image", "over them", "all-reduce", "hides behind", "operators",
        "kept an image", "with checkpointing", "memory, 128 images", "with checkpointing", "a checkpoint",
    ]  # fmt: skip
    return markdown(header, rows)


def strong(figures: dict[tuple[str, str], Figures], cluster: Cluster) -> str:
    """The recipe's batch, divided over more and more GPUs."""
    rows = []
    for (model, method), found in figures.items():
        alone = step(found, cluster, 1, BATCH[method] / cluster.gpus)
        for nodes in NODES:
            images = BATCH[method] / (nodes * cluster.gpus)
            if images < 1:
                break
            now = step(found, cluster, nodes, images)
            rate = BATCH[method] / now.seconds
            rows.append([
                f"{model}, {method}", str(nodes), f"{images:g}",
                *(f"{1e3 * s:.1f}" for s in (now.compute, now.launches, now.reduction, now.exposed, now.seconds)),
                f"{rate:,.0f}",
                f"{alone.seconds / now.seconds / nodes:.0%}", f"{rate / nodes * cluster.jpeg_kb / 1e3:,.0f}",
                f"{rate / nodes / cluster.gpus / found.images_per_core:.1f}", now.limit,
            ])  # fmt: skip
    header = ["", "nodes", "images a GPU", "compute ms", "launches ms", "all-reduce ms", "of it exposed", "step ms",
              "images/s", "efficiency", "MB/s a node", "workers a GPU", "limit"]  # fmt: skip
    return markdown(header, rows)


def weak(figures: dict[tuple[str, str], Figures], cluster: Cluster) -> str:
    """As many images a GPU on any number of nodes; the loaders are taken to keep up."""
    rows = []
    for (model, method), found in figures.items():
        steps = [step(found, cluster, nodes, WEAK) for nodes in NODES]
        seconds = [max(now.compute, now.launches) + now.exposed for now in steps]
        rows.append([f"{model}, {method}", f"{1e3 * seconds[0]:.0f} ms", *(f"{seconds[0] / s:.0%}" for s in seconds)])
    return markdown(["", "step, 1 node", *(f"{nodes}" for nodes in NODES)], rows)


def few_shot(cluster: Cluster) -> str:
    """DC-ViT's trials by the recipe of `dcvit_deit_b`: at most what training the candidates as a whole would take."""
    recipe = load_experiment("dcvit_deit_b", check_files=False)
    images, keys = min(recipe.data.num_samples or 0, recipe.data.batch_size), recipe.method
    rows = []
    for model, name in MODELS.items():
        with torch.device("meta"):
            spec = create_backbone(name).spec
        candidates = len(chosen_candidates(None, spec))
        stages = -(-candidates // keys.trials_at_once)
        flops = images * costs.macs(spec) * (2 + 6 * keys.trials_at_once)
        seconds = flops / (1e12 * cluster.peak_tflops * cluster.utilization)
        minutes = seconds * (recipe.trainer.max_epochs or 0) / 60
        rows.append([model, str(candidates), str(stages), str(images), f"{1e3 * seconds:.0f}",
                     f"{minutes * stages:.0f}", f"{minutes:.0f}"])  # fmt: skip
    header = ["DC-ViT on", "candidates", "stages, and GPUs that have work", "images a step", "ms a step, at most",
              "minutes of trials on one GPU", "on as many as have work"]  # fmt: skip
    return markdown(header, rows)


def options() -> tuple[Cluster, Path, float | None]:
    """The cluster of the command line, the file of what was timed, and the loader's rate where it is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Cluster()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    folder = REPOSITORY / "runs" / "studies" / "scaling"
    parser.add_argument("--runs", type=Path, default=folder, help="with what was timed (default: %(default)s)")
    parser.add_argument(
        "--images-per-core", type=float, help="an earlier rate of the loader, in place of the timed one"
    )
    given = vars(parser.parse_args())
    file, rate = given.pop("runs") / "timings.json", given.pop("images_per_core")
    return Cluster(**given), file, rate


def main() -> None:
    """Measure what is missing, reckon, and write."""
    cluster, file, rate = options()
    torch.set_num_threads(1)
    timed = timings(file)
    here = f"{timed['images_per_core']:.0f}" + ("" if rate is None else f" here, and {rate:.0f} is reckoned with")
    timed |= {} if rate is None else {"images_per_core": rate}
    figures = measured(timed)
    place = environment("cpu")
    print(json.dumps({" ".join(key): asdict(found) for key, found in figures.items()} | {"environment": place}))
    notes = (
        f"Cluster: {', '.join(f'{name} {value:g}' for name, value in asdict(cluster).items())}. Images an augmenting "
        f"worker decodes in a second of one core: {here}; it and USDC's step were timed on one thread at commit "
        f"{timed['environment']['commit']}. Counted with torch {place['versions']['torch']}, commit "
        f"{place['commit']}; models: {', '.join(MODELS.values())}."
    )
    write_section(DOCUMENT, "facts", f"{notes}\n\n{facts(figures)}")
    write_section(DOCUMENT, "strong", strong(figures, cluster))
    write_section(DOCUMENT, "weak", weak(figures, cluster))
    write_section(DOCUMENT, "few-shot", few_shot(cluster))


if __name__ == "__main__":
    main()
