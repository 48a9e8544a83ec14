"""A Scala step against a dense step: time over MACs, and peak memory. DeiT-S at 224 px unless told otherwise."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import torch
from study import REPOSITORY, markdown, write_section

from lightning_vitc import costs, create_backbone
from lightning_vitc.callbacks.width_sampling import draw_widths
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.scala import Arguments, Scala
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import OptimizerConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "scala.md"


def main() -> None:
    """Measure time here, memory in processes of their own, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deit_small_distilled_patch16_224")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=("dense", "scala"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_bytes(args))
        return
    row = measure(args)
    row["dense_bytes"], row["scala_bytes"] = (memory(name) for name in ("dense", "scala"))
    row["memory_ratio"] = row["scala_bytes"] / row["dense_bytes"]
    print(json.dumps(row | {"environment": environment(args.device)}))
    write_section(DOCUMENT, f"step-{args.device}", table(args, row))


def build(name: str, args: argparse.Namespace) -> Dense | Scala:
    """The module to train, by name."""
    torch.manual_seed(0)
    backbone, recipe = create_backbone(args.model), OptimizerConfig(lr=1e-3)
    module = Dense(backbone, recipe) if name == "dense" else Scala(backbone, recipe, arguments=Arguments())
    return module.to(args.device).train()


def batch(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and classes."""
    images = torch.randn(args.batch_size, 3, 224, 224, device=args.device)
    return images, torch.randint(1000, (args.batch_size,), device=args.device)


def step(module: Dense | Scala, optimizer: torch.optim.Optimizer, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Seconds of one training step."""
    started = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=data[0].is_cuda):
        result = module.step(*data)
    result.loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if data[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Alternate dense and Scala steps; the median over steps of time ratio / MACs ratio."""
    both, data = {name: build(name, args) for name in ("dense", "scala")}, batch(args)
    optimizers = {name: torch.optim.AdamW(module.parameters()) for name, module in both.items()}
    full = costs.macs(both["dense"].backbone.spec)
    times, macs, ratios = [], [], []
    for number in range(args.repeats + 2):
        widths = draw_widths(both["scala"].grid, "paper", 0, number)
        both["scala"].widths = widths
        dense, scala = (step(both[name], optimizers[name], data) for name in ("dense", "scala"))
        if number >= 2:  # warm-up
            share = sum(costs.macs(spec_at(both["scala"], width)) for width in widths) / full
            times.append(scala / dense)
            macs.append(share)
            ratios.append(scala / dense / share)
    medians = {"time_ratio": times, "macs_ratio": macs, "time_over_macs": ratios}
    return {name: statistics.median(values) for name, values in medians.items()}


def spec_at(scala: Scala, width: Fraction) -> object:
    """The sub-network of a width."""
    kept = scala.kept(width)
    return scala.backbone.spec if kept is None else kept.spec


def memory(name: str) -> int:
    """Peak of a training step in a process of its own, beyond what importing torch takes."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_bytes(args: argparse.Namespace) -> int:
    """Peak memory of three steps."""
    before = resident("VmRSS")
    module, data = build(args.memory_of, args), batch(args)
    optimizer = torch.optim.AdamW(module.parameters())
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(3):
        if isinstance(module, Scala):
            module.widths = draw_widths(module.grid, "paper", 0, number)
        step(module, optimizer, data)
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of resident memory of this process by Linux: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def table(args: argparse.Namespace, row: dict[str, float]) -> str:
    """Ratios and where they were measured."""
    header = ["Scala step / dense step", "time", "MACs", "time over MACs", "peak memory"]
    cells = [f"{row[key]:.3f}" for key in ("time_ratio", "macs_ratio", "time_over_macs", "memory_ratio")]
    facts = environment(torch.cuda.get_device_name() if args.device == "cuda" else "cpu")
    place = (
        f"{facts['device']}, {facts['threads']} threads, torch {facts['versions']['torch']}, commit {facts['commit']}"
    )
    title = f"{args.model}, 13 widths, batch {args.batch_size}, median of {args.repeats} interleaved pairs; {place}."
    return f"{title}\n\n{markdown(header, [['ratio', *cells]])}"


if __name__ == "__main__":
    main()
