"""What `budget.round_to` is worth: DeiT-S pruned to half of its MACs in multiples of 1 to 16, beside the dense model.

Random weights, whose values do not matter for speed. All networks run in one process, round by round. A batch size that
was measured before is read from its file below `--runs`.
"""

import argparse
import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from deploy import pruned
from study import REPOSITORY, markdown, write_section

from lightning_vitc import costs
from lightning_vitc.latency import timing
from lightning_vitc.latency.timing import interleaved, percentiles, ratio, scatter
from lightning_vitc.networks.backbone import template
from lightning_vitc.networks.families.plain.network import build, initialize
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import ModelConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "deploy.md"
MODEL, SIZES = "deit_small_patch16_224", (1, 2, 4, 8, 16)
DENSE = "dense"


def main() -> None:
    """Measure what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "studies" / "round_to")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, nargs="+", default=[60, 20, 6], help="rounds of each batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "thread"),
        help="thread: what the process computes, for one thread on a machine that is busy with others",
    )  # fmt: skip
    args = parser.parse_args()
    if args.clock == "thread":
        timing.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[assignment]
    torch.set_num_threads(args.threads)
    dense = template(ModelConfig(name=MODEL)).spec
    specs = {DENSE: dense, **{str(size): pruned(dense, size) for size in SIZES}}
    found = {size: measured(args, specs, size, repeats)
             for size, repeats in zip(args.batch_sizes, args.repeats, strict=True)}  # fmt: skip
    places = [document["environment"] for document in found.values()]
    commits = ", ".join(sorted({str(place["commit"]) for place in places}))
    versions = ", ".join(f"{name} {places[0]['versions'][name]}" for name in ("torch", "timm"))
    rounds = ", ".join(f"{len(document['times'][DENSE])} of batch {size}" for size, document in found.items())
    facts = (
        f"{MODEL} on cpu, {args.threads} threads, {args.clock} clock, {versions}, commit {commits}; interleaved "
        f"rounds: {rounds}. Ratios are medians of those within a round; the ratios of medians differ from them by "
        f"{100 * disagreement(found):.1f} % at most. The p90 of a network's times is at most "
        f"{max(map(widest, found.values())):.2f} of its p10."
    )
    write_section(DOCUMENT, "round-to", f"{facts}\n\n{table(specs, found)}")


def measured(args: argparse.Namespace, specs: dict[str, ArchSpec], size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of every network and round at a batch size, from the file of an earlier run where there is one."""
    path = args.runs / f"{MODEL}-{args.clock}-{args.threads}-{size}-{repeats}.json"
    if not path.exists():
        torch.manual_seed(0)
        dense = specs[DENSE]
        images = torch.randn(size, dense.in_chans, *dense.img_size)
        calls = {name: partial(network_of(spec), images) for name, spec in specs.items()}
        times = interleaved(calls, torch.device("cpu"), repeats, warmup=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": environment("cpu"), "times": times}))
    return json.loads(path.read_text())


def disagreement(found: dict[int, dict[str, Any]]) -> float:
    """By how much two ways to compare the networks differ at most; little where the machine was quiet."""
    worst = 0.0
    for times in (document["times"] for document in found.values()):
        for one, other in itertools.permutations(times.values(), 2):
            worst = max(worst, abs(ratio(one, other) * statistics.median(other) / statistics.median(one) - 1))
    return worst


def widest(document: dict[str, Any]) -> float:
    """How many times its p10 a network's p90 is at most."""
    return max(map(scatter, document["times"].values()))


def network_of(spec: ArchSpec) -> torch.nn.Module:
    """With fresh weights."""
    network = build(spec)
    initialize(network)
    return network.eval()


def table(specs: dict[str, ArchSpec], found: dict[int, dict[str, Any]]) -> str:
    """A row a network: MACs, and of every batch size the latency, the speed-up and its realized share."""
    whole = costs.macs(specs[DENSE])
    header = ["`round_to`", "MACs of dense", *(f"batch {size}: ms, speed-up, **realized**" for size in found),
              *(f"time of `round_to` 1, batch {size}" for size in found)]  # fmt: skip
    rows = []
    for name, spec in specs.items():
        macs = costs.macs(spec)
        cells, shares = [], []
        for document in found.values():
            times = document["times"]
            speedup = ratio(times[DENSE], times[name])
            milliseconds = percentiles(times[name])["p50"]
            cells.append(f"{milliseconds:.1f}, {speedup:.2f}, **{speedup * macs / whole:.2f}**")
            shares.append("" if name == DENSE else f"{ratio(times[name], times['1']):.2f}")
        rows.append([name, f"{100 * macs / whole:.3f} %", *cells, *shares])
    return markdown(header, rows)


if __name__ == "__main__":
    main()
