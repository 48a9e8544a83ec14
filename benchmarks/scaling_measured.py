"""The figures of `scaling.py`: counted, or measured on the CPU in seconds.

Operators and kept bytes are those of a step under bf16 autocast. Bytes are noted with torch's fake tensors: every
operator says what it would return and keep, and computes nothing. Blocks are alike, so that both are straight lines in
their number: they are taken at two and at three.
"""

import io
import json
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from operators import operators_of
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_vitc import costs, create_backbone
from lightning_vitc.budget.target import target_of
from lightning_vitc.callbacks.width_sampling import draw_widths
from lightning_vitc.config import load_experiment
from lightning_vitc.data.batches import TransformedBatches
from lightning_vitc.data.sources import FileSource, Split
from lightning_vitc.data.transforms import training_transform
from lightning_vitc.dynamic.targets import targets_of
from lightning_vitc.images.preprocessing import ImageSpec
from lightning_vitc.methods.dense import Arguments as DenseArguments
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.scala import Arguments as ScalaArguments
from lightning_vitc.methods.scala import Scala
from lightning_vitc.methods.usdc import USDC
from lightning_vitc.methods.usdc import Arguments as USDCArguments
from lightning_vitc.methods.uvc import UVC
from lightning_vitc.methods.uvc import Arguments as UVCArguments
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import BudgetConfig, OptimizerConfig
from lightning_vitc.training.module import CompressionModule
from lightning_vitc.training.teacher import Teacher

MODELS = {"DeiT-B": "deit_base_patch16_224", "ViT-L": "vit_large_patch16_224"}
METHODS = ("dense", "uvc", "usdc", "scala")
OVERHEAD = {"dense": 1.0, "uvc": 1.028, "scala": 1.050}  # measured: docs/results/uvc.md, docs/results/scala.md
GRANULARITY, DRAWS = 0.0625, 2000  # Scala's 13 widths; steps that its draws are averaged over
RECIPE, BUDGET = OptimizerConfig(lr=1e-4), BudgetConfig(macs="50%")


@dataclass(frozen=True)
class Figures:
    """Of a method on a model."""

    params: float
    teacher_params: float
    flops: float  # of matrix products, of an image in a step
    last_backward_flops: float  # of the backward pass that the all-reduce can hide behind
    overhead: float  # time of a step over that of its matrix products, dense being 1
    operators: float
    activation_bytes: float  # that autograd keeps for an image
    recomputed_bytes: float  # the same with activation checkpointing
    images_per_core: float


def timings(path: Path) -> dict[str, Any]:
    """What is timed and wants a quiet machine, with where it was: from the file of an earlier run if there is one."""
    if not path.exists():
        timed = {"images_per_core": loader_rate(), "overhead_of_usdc": overhead_of_usdc()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**timed, "environment": environment("cpu")}))
    return json.loads(path.read_text())


def measured(timed: dict[str, Any]) -> dict[tuple[str, str], Figures]:
    """By model and method: loader and USDC as timed, the rest from the cost model and earlier studies."""
    rate, overhead = timed["images_per_core"], OVERHEAD | {"usdc": timed["overhead_of_usdc"]}
    return {
        (model, method): figures(name, method, overhead[method], rate)
        for model, name in MODELS.items() for method in METHODS
    }  # fmt: skip


def figures(name: str, method: str, overhead: float, rate: float) -> Figures:
    """Of one model and method."""
    with torch.device("meta"):
        spec = create_backbone(name).spec
    flops, last = flops_of(spec, method)
    params = of_depth(partial(trained_weights, name, method), spec.depth)
    plain, recomputed = (
        of_depth(partial(kept_bytes, name, method, grad_checkpointing=on), spec.depth) for on in (False, True)
    )
    operators = of_depth(partial(operators_with, name, method), spec.depth)
    teacher = 0 if method == "dense" else costs.params(spec)
    return Figures(params, teacher, flops, last, overhead, operators, plain, recomputed, rate)


def flops_of(spec: Any, method: str) -> tuple[float, float]:
    """A MAC is 2 FLOPs, a backward pass two forward passes; a teacher is a forward pass of the dense network.

    Scala's gradients are whole only when its last backward pass has ended: it hides nothing.
    """
    dense = costs.macs(spec)
    if method != "scala":
        return (6.0 if method == "dense" else 8.0) * dense, 4.0 * dense
    grid = ScalaArguments(granularity=GRANULARITY).grid()
    macs = {width: costs.macs(slice_width(spec, width).spec) for width in grid}
    drawn = [sum(macs[width] for width in draw_widths(grid, "paper", 0, number)) for number in range(DRAWS)]
    return 6.0 * statistics.fmean(drawn) + 2.0 * dense, 0.0


def of_depth(figure: Callable[[int], float], depth: int) -> float:
    """A figure of so many blocks from those of two and of three."""
    two, three = figure(2), figure(3)
    return two + (depth - 2) * (three - two)


def trained_weights(name: str, method: str, depth: int) -> float:
    """Numbers that the optimizer moves; of USDC its gates' too."""
    module = build(method, create_backbone(name, depth=depth))
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def operators_with(name: str, method: str, depth: int) -> float:
    """Operators of a step, whose number does not depend on what images there are."""
    module = build(method, create_backbone(name, depth=depth, img_size=32))
    return operators_of(module, torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long), torch.bfloat16).total()


def kept_bytes(name: str, method: str, depth: int, grad_checkpointing: bool) -> float:
    """Bytes that an image keeps."""
    module = build(method, create_backbone(name, depth=depth))
    module.backbone.set_grad_checkpointing(grad_checkpointing)
    with FakeTensorMode(allow_non_fake_inputs=True):
        few, many = (run(module, images) for images in (8, 16))
    return (many - few) / 8  # copies of weights in bf16 are in both


def run(module: CompressionModule, images: int) -> int:
    """Bytes of the largest pass of a step that autograd keeps, weights apart."""
    weights = {weight.untyped_storage()._cdata for weight in module.parameters()}
    kept: dict[int, int] = {}
    largest = [0]

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def end_of_pass(loss: torch.Tensor) -> None:
        largest[0] = max(largest[0], sum(kept.values()))
        kept.clear()
        loss.backward()

    module.accumulate = end_of_pass  # type: ignore[method-assign]
    batch = torch.randn(images, 3, 224, 224), torch.zeros(images, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            loss = module.step(*batch).loss
        end_of_pass(loss)
    return largest[0]


def build(method: str, network: Any) -> CompressionModule:
    """The module whose step is timed."""
    spec, teacher = network.spec, Teacher(deepcopy(network), network.spec.num_classes)
    if method == "dense":
        return Dense(network, RECIPE).train()
    if method == "taught":
        return Dense(network, RECIPE, teacher, DenseArguments(distillation="soft")).train()
    if method == "uvc":
        return UVC(network, RECIPE, teacher, UVCArguments(), BUDGET, target_of(BUDGET, spec, "uvc")).train()
    if method == "usdc":
        keys = USDCArguments()
        return USDC(network, RECIPE, teacher, keys, BUDGET, targets_of(BUDGET, spec, keys.static, keys.dynamic)).train()
    module = Scala(network, RECIPE, None, ScalaArguments(granularity=GRANULARITY))
    module.widths = (Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(1, 4))
    for width in module.widths[1:]:  # what is made once for a width cannot be made of fake tensors
        network(torch.zeros(1, spec.in_chans, *spec.img_size), kept=module.kept(width))
    return module.train()


def overhead_of_usdc(repeats: int = 7) -> float:
    """CPU seconds of a joint step over those of a dense step with the same teacher: DeiT-S, batch 4, interleaved."""
    modules = [build(method, create_backbone("deit_small_patch16_224")) for method in ("taught", "usdc")]
    batch = torch.randn(4, 3, 224, 224), torch.zeros(4, dtype=torch.long)
    ratios = []
    for number in range(repeats + 1):
        dense, usdc = (seconds_of(module, batch) for module in modules)
        ratios += [usdc / dense] if number else []  # the first warms up
    return statistics.median(ratios)


def seconds_of(module: CompressionModule, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Seconds of one training step."""
    started = time.process_time()
    module.step(*batch).loss.backward()
    module.zero_grad(set_to_none=True)
    if isinstance(module, USDC):
        module.prune_step(1e-4)
    return time.process_time() - started


def loader_rate(count: int = 32, epochs: int = 10) -> float:
    """Images of ImageNet's size that one core decodes and augments in a second, by the recipe of `scala_deit_b`."""
    config = load_experiment("scala_deit_b", check_files=False).data
    shape = ImageSpec((224, 224), 3, (0.5,) * 3, (0.5,) * 3)
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        for number in range(count):
            (Path(folder) / f"{number}.jpg").write_bytes(photograph(random))
        split = Split.whole(FileSource(Path(folder), [f"{number}.jpg" for number in range(count)], np.zeros(count)))
        batches = TransformedBatches(split, training_transform(config, shape), seed=0)
        batches.__getitems__([(0, 0)])
        started = time.process_time()
        for epoch in range(epochs):
            batches.__getitems__([(number, epoch) for number in range(count)])
        return epochs * count / (time.process_time() - started)


def photograph(random: np.random.Generator) -> bytes:
    """A JPEG of 500 x 375 pixels and 64 kB: smooth shapes and some grain."""
    coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
    pixels = np.clip(np.asarray(coarse) + random.normal(0, 12, (375, 500, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()
