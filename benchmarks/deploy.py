"""What half of the MACs is worth: latency of DeiT-S compressed by every method, in every runtime, beside the dense one.

Random weights, whose values do not matter for speed. Every pair of runtime and batch size is one file below `--runs`;
an interrupted study continues with those that are missing.
"""

import argparse
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from study import REPOSITORY, markdown, write_section

from lightning_vitc import costs
from lightning_vitc.budget.sketch import sketch_of
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.measuring.benchmark import benchmark
from lightning_vitc.measuring.candidates import candidate_of
from lightning_vitc.measuring.subjects import Candidate, Settings
from lightning_vitc.networks.backbone import template
from lightning_vitc.networks.families.plain.shape import vit_block
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.results import environment
from lightning_vitc.schema import BudgetConfig, ModelConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "deploy.md"
SHARE = 0.5
USDC, GATE = "USDC, pruned to 71 %, gates skip the rest", "gelu_ln"
GROUPS = {"pytorch": Settings(compiled=True), "onnxruntime": Settings(formats=("onnx", "int8"))}
COLUMNS = {  # runtime, dtype, compile
    "eager": ("pytorch", "fp32", False), "compiled": ("pytorch", "fp32", True),
    "onnxruntime": ("onnx", "fp32", False), "onnxruntime int8": ("onnx", "int8", False),
}  # fmt: skip
Key = tuple[str, tuple[str, str, bool]]


def main() -> None:
    """Measure what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "studies" / "deploy")
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, nargs="+", default=[30, 10], help="rounds of each batch size")
    parser.add_argument("--groups", nargs="+", choices=tuple(GROUPS), default=list(GROUPS))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    dense = template(ModelConfig(name=args.model)).spec
    networks = networks_of(dense)
    body, places = [], []
    for size, repeats in zip(args.batch_sizes, args.repeats, strict=True):
        found = {key: row for group in args.groups
                 for key, row in measured(args, networks, dense, group, size, repeats).items()}  # fmt: skip
        body.append(f"Batch {size}, median of {repeats} interleaved rounds:\n\n{table(networks, found)}")
        places += [row["environment"] for row in found.values()]
    commits = ", ".join(sorted({str(place["commit"]) for place in places}))
    versions = ", ".join(f"{name} {places[0]['versions'][name]}" for name in ("torch", "timm"))
    facts = f"{args.model} on {args.device}, {torch.get_num_threads()} threads, {versions}, commit {commits}."
    write_section(DOCUMENT, f"deploy-{args.device}", "\n\n".join([facts, *body]))


def networks_of(dense: ArchSpec) -> dict[str, ArchSpec]:
    """What the methods leave of the network at half of its MACs."""
    return {
        "UVC, heads and channels": pruned(dense, 1),
        "UVC, `round_to` 8": pruned(dense, 8),
        "UVC, `round_to` 16": pruned(dense, 16),
        "UVC, every second block skipped": dense.with_stage(*(dense.blocks[: dense.depth // 2])),
        "Scala, width 0.6875": dense.at_width(Fraction("0.6875")),
        "DC-ViT, attention removed": without_attention(dense, dense.depth * 2 // 3),
    }


def usdc(dense: ArchSpec) -> tuple[ArchSpec, list[bool]]:
    """Pruned to the square root of the share, with gates; and which of them let their branch run, to meet the share.

    For a batch of one that is what a gated network does for an average image. All images of a larger batch agree here,
    which is the best case: where they differ, they are gathered.
    """
    resident = pruned(dense, 1, SHARE**0.5)
    spec = resident.with_stage(*(block.with_gates((GATE, GATE)) for block in resident.blocks))
    found, run = DynamicCosts.of(spec), torch.ones(spec.depth, 2)
    order = [number for start in range(3) for number in range(start, 2 * spec.depth, 3)]  # spread over the depth
    for number in order:
        if found.expected(run) <= SHARE * costs.macs(dense):
            break
        run.view(-1)[number] = 0
    return spec, run.bool().flatten().tolist()


def gated(spec: ArchSpec, running: list[bool], reference: Candidate) -> Candidate:
    """The network whose gates compute as ever and then decide as they are told; its MACs are those that run."""
    candidate = candidate_of(USDC, spec, dense=reference)
    gates = [module for module in candidate.module.modules() if isinstance(module, GateNetwork)]
    for gate, run in zip(gates, running, strict=True):
        torch.nn.init.zeros_(gate.last.weight)
        with torch.no_grad():
            gate.last.bias.copy_(torch.tensor([0.0, 1.0 if run else -1.0]))
    rates = torch.tensor(running, dtype=torch.float32).unflatten(0, (-1, 2))
    return replace(candidate, macs=int(DynamicCosts.of(spec).expected(rates)))


def pruned(dense: ArchSpec, round_to: int, share: float = SHARE) -> ArchSpec:
    """The projection onto the budget at random importances, of heads that differ and blocks that differ."""
    units = UnitCosts.of(dense)
    return sketch_of(dense, units, int(share * units.dense), BudgetConfig(round_to=round_to)).spec


def without_attention(dense: ArchSpec, blocks: int) -> ArchSpec:
    """The first blocks without attention and with as many hidden units as the budget leaves, a multiple of 16."""
    limit = SHARE * costs.macs(dense)
    for hidden in range(stacks_of(dense)[0].channels, 0, -16):
        spec = dense.with_stage(*((vit_block(None, hidden),) * blocks + dense.blocks[blocks:]))
        if costs.macs(spec) <= limit:
            return spec
    raise ValueError(f"{blocks} blocks without attention cannot reach the budget")


def measured(
    args: argparse.Namespace, networks: dict[str, ArchSpec], dense: ArchSpec, group: str, size: int, repeats: int
) -> dict[Key, dict[str, Any]]:
    """Rows by network and runtime, from the file of an earlier run where there is one."""
    name = f"{args.model}-{args.device}-{torch.get_num_threads()}-{group}-{size}-{repeats}.json"
    path = args.runs / name
    if not path.exists():
        print(f"{group}, batch {size} ...", flush=True)
        torch.manual_seed(0)
        reference = candidate_of("dense", dense)
        candidates = [candidate_of(name, spec, dense=reference) for name, spec in networks.items()]
        candidates.append(gated(*usdc(dense), reference))
        settings = replace(GROUPS[group], batch_sizes=(size,), device=args.device, repeats=repeats, warmup=2)
        rows = benchmark(candidates, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": environment(args.device), "rows": rows}))
        torch.compiler.reset()
    document = json.loads(path.read_text())
    rows = [row | {"environment": document["environment"]} for row in document["rows"]]
    return {(row["name"], (row["runtime"], row["dtype"], row["compile"])): row for row in rows}


def table(networks: dict[str, ArchSpec], found: dict[Key, dict[str, Any]]) -> str:
    """Latency, speed-up and realized share in every runtime."""
    columns = {name: runtime for name, runtime in COLUMNS.items() if ("dense", runtime) in found}
    header = ["ms, speed-up, **realized**", "MACs ÷", *columns]
    rows = []
    for name in ("dense", *networks, USDC):
        ours = [found[name, runtime] for runtime in columns.values()]
        cells = [f"{row['latency_ms']['p50']:.1f}, {row['speedup']:.2f}, **{row['realised']:.2f}**" for row in ours]
        rows.append([name, f"{ours[0]['macs_reduction']:.2f}", *cells])
    return markdown(header, rows)


if __name__ == "__main__":
    main()
