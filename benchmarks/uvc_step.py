"""A step of UVC's search against a dense step with the same teacher: time, interleaved. DeiT-S at 224 px by default."""

import argparse
import json
import statistics
import time
from copy import deepcopy

import torch
from study import REPOSITORY, markdown, write_section

from lightning_vitc import create_backbone
from lightning_vitc.budget.target import target_of
from lightning_vitc.methods.dense import Arguments as DenseArguments
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.uvc import UVC, Arguments
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import BudgetConfig, OptimizerConfig
from lightning_vitc.training.teacher import Teacher

DOCUMENT = REPOSITORY / "docs" / "results" / "uvc.md"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    row = measure(args)
    facts = environment(torch.cuda.get_device_name() if args.device == "cuda" else "cpu")
    print(json.dumps(row | {"environment": facts}))
    title = (
        f"{args.model}, batch {args.batch_size}, median of {args.repeats} interleaved pairs; {facts['device']}, "
        f"{facts['threads']} threads, torch {facts['versions']['torch']}, commit {facts['commit']}."
    )
    cells = [f"{row['dense_ms']:.0f} ms", f"{row['search_ms']:.0f} ms", f"{row['ratio']:.3f}"]
    table = markdown(["", "dense step", "search step", "ratio"], [["with the same teacher", *cells]])
    write_section(DOCUMENT, f"step-{args.device}", f"{title}\n\n{table}")


def build(args: argparse.Namespace) -> tuple[Dense, UVC]:
    """A dense and a searching module with teachers that are alike."""
    torch.manual_seed(0)
    network, recipe, budget = create_backbone(args.model), OptimizerConfig(lr=1e-4), BudgetConfig(macs="50%")
    teacher = Teacher(deepcopy(network).to(args.device), network.spec.num_classes)
    dense = Dense(deepcopy(network), recipe, teacher, DenseArguments(distillation="soft"))
    target = target_of(budget, network.spec, "uvc")
    return dense.to(args.device).train(), UVC(network, recipe, teacher, Arguments(), budget, target).to(
        args.device
    ).train()


def step(module: Dense | UVC, optimizer: torch.optim.Optimizer, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """As Lightning does it, clipping and all."""
    started = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=data[0].is_cuda):
        loss = module.step(*data).loss
    loss.backward()
    module.on_before_optimizer_step(optimizer)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    if isinstance(module, UVC):
        module.search_step(1e-4)
    optimizer.zero_grad(set_to_none=True)
    if data[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Alternate the two; the median over pairs of the ratio of their times."""
    modules = build(args)
    images = torch.randn(args.batch_size, 3, 224, 224, device=args.device)
    data = images, torch.randint(1000, (args.batch_size,), device=args.device)
    optimizers = [torch.optim.AdamW(module.parameters(), lr=1e-4) for module in modules]
    pairs = [[step(module, optimizer, data) for module, optimizer in zip(modules, optimizers, strict=True)]
             for _ in range(args.repeats + 2)][2:]  # fmt: skip
    dense, search = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"dense_ms": 1000 * dense, "search_ms": 1000 * search, "ratio": statistics.median(b / a for a, b in pairs)}


if __name__ == "__main__":
    main()
