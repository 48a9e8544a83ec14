"""How near the networks that a budget of latency leads to come to it: DeiT-S at 60 % of its latency, by every method.

Random weights, whose values do not matter for speed; UVC and USDC are projected at random importances. Every network is
predicted by the table, measured, and fitted as a run does it; at the end all are measured again beside the dense one,
which no fit has seen. Of USDC it is the resident model, without the gates.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from study import REPOSITORY, markdown, write_section

from lightning_vitc import costs
from lightning_vitc.budget.sketch import sketch_of
from lightning_vitc.budget.target import NANOSECONDS, Target, target_of
from lightning_vitc.few_shot.block_plan import plan_blocks
from lightning_vitc.latency import timing
from lightning_vitc.latency.fitting import Fit, fit
from lightning_vitc.latency.meter import Meter
from lightning_vitc.latency.place import Place
from lightning_vitc.latency.widths import largest_within
from lightning_vitc.methods.scala import Arguments as ScalaArguments
from lightning_vitc.methods.scala import widths_of
from lightning_vitc.networks.backbone import template
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import BudgetConfig, ModelConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "deploy.md"


def main() -> None:
    """Measure what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "studies" / "latency_budget")
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "thread"),
        help="thread: what the process computes, for one thread on a machine that is busy with others",
    )
    parser.add_argument("--share", default="60%", help="of the dense latency (default: %(default)s)")
    args = parser.parse_args()
    if args.clock == "thread":
        timing.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[assignment]
    os.environ["XDG_CACHE_HOME"] = str(args.runs)  # a table of its own, measured now
    meter = Meter(template(ModelConfig(name=args.model)).spec, Place(args.device, args.batch_size, args.threads))
    target = target_of(BudgetConfig(latency_ms=args.share), meter.dense, "uvc", meter.table())
    fits = {name: fit(target.amount, decide, lambda spec: meter.now(spec, target.dense))
            for name, decide in methods(meter, target).items()}  # fmt: skip
    fits["Scala, the largest width within"] = width_within(meter, target)
    again = meter.measured({name: found.choice for name, found in fits.items()})
    document = {"environment": environment(args.device), "target": target.amount, "dense": target.dense,
                "tries": {name: found.tries for name, found in fits.items()}, "again": again}  # fmt: skip
    (args.runs / "result.json").write_text(json.dumps(document, indent=1))
    write_section(DOCUMENT, f"latency-budget-{args.device}", report(args, meter, target, fits, again))


def methods(meter: Meter, target: Target) -> dict[str, Callable[[int], ArchSpec]]:
    """What a limit in nanoseconds leads to."""
    dense, units = meter.dense, target.unit_costs(meter.dense)

    def pruned(blocks: int | None, round_to: int = 1) -> Callable[[int], ArchSpec]:
        budget = BudgetConfig(round_to=round_to)
        return lambda limit: sketch_of(dense, units, limit, budget, blocks).spec

    def planned(limit: int) -> ArchSpec:
        counted = Target(target.quantity, min(limit, target.dense), target.dense, table=target.table)
        return plan_blocks(dense, counted, range(1, dense.depth - 1)).apply(dense, range(1, dense.depth - 1))

    return {
        "UVC, heads and channels": pruned(None),
        "UVC, a fifth of the blocks skipped too": pruned(dense.depth - dense.depth // 5),
        "USDC, the resident model, `round_to` 8": pruned(None, 8),
        "DC-ViT": planned,
    }


def width_within(meter: Meter, target: Target) -> Fit[ArchSpec]:
    """Of Scala's grid; its widths are measured, not predicted."""
    widths = widths_of(meter.dense, ScalaArguments())
    found = meter.remembered(widths)["nanoseconds"]
    name = largest_within(widths, found, target.amount)
    assert name is not None
    return Fit(widths[name], found[name])


def report(args: argparse.Namespace, meter: Meter, target: Target, fits: dict[str, Fit[ArchSpec]],
           again: dict[str, int]) -> str:  # fmt: skip
    """Predicted and measured at first, tries, the fitted network's latency then and again, and its error."""
    facts = environment(args.device)
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "timm"))
    where = meter.place.described()
    dense, later = (f"{amount / NANOSECONDS:.1f} ms" for amount in (target.dense, again["dense"]))
    place = f"{where['device_name']}, batch {args.batch_size}, {args.threads} threads, {args.clock} clock"
    begin = (
        f"{args.model} on {place}, {versions}, commit {facts['commit']}. Dense {dense} when the table was measured and "
        f"{later} at the end, budget {target.amount / NANOSECONDS:.1f} ms ({args.share})."
    )
    rows = [row(name, found, meter, target, again) for name, found in fits.items()]
    header = ["", "MACs of dense", "expected / measured at first", "tries", "fitted", "again", "again, of the budget"]
    return f"{begin}\n\n{markdown(header, rows)}"


def row(name: str, found: Fit[ArchSpec], meter: Meter, target: Target, again: dict[str, int]) -> list[str]:
    """Again: as a share of the dense network in the same rounds, on the scale of the table."""
    later = target.dense * again[name] / again["dense"]
    ratio = f"{found.tries[0]['limit'] / found.tries[0]['measured']:.3f}" if found.tries else ""
    return [name, f"{100 * costs.macs(found.choice) / costs.macs(meter.dense):.1f} %", ratio,
            str(len(found.tries)), f"{found.measured / NANOSECONDS:.2f} ms", f"{later / NANOSECONDS:.2f} ms",
            f"{100 * later / target.amount - 100:+.1f} %"]  # fmt: skip


if __name__ == "__main__":
    main()
