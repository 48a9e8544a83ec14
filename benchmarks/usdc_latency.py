"""Latency of a network with gates against how often its branches run; forced gates, random weights, interleaved."""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from study import REPOSITORY, markdown, write_section
from torch import Tensor, nn

from lightning_vitc import ArchSpec, create_backbone
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.networks.backbone import Backbone, from_spec
from lightning_vitc.networks.gates.attaching import gates_of
from lightning_vitc.networks.gates.networks import GateNetwork
from lightning_vitc.networks.gates.shapes import GATES
from lightning_vitc.networks.gates.skipping import set_gating
from lightning_vitc.pipeline.results import environment

DOCUMENT = REPOSITORY / "docs" / "results" / "usdc.md"
SURE = 1e3  # beyond what weights at random make of any image
RATES = (1.0, 0.75, 0.5, 0.25, 0.0)


class ForcedGate(GateNetwork):
    """A gate that computes all that a gate does and then decides as it was told, for the price of an addition.

    Where all or none of the images run, the bias of its last layer tells it that, for nothing.
    """

    told: ClassVar[Iterator[Tensor] | None]  # logits [B, 2] of the gates to come

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits whose sign is given."""
        logits = super().forward(pooled)
        return logits if self.told is None else torch.add(next(self.told), logits, alpha=1e-6)


@dataclass
class Subject:
    """What is timed."""

    title: str
    network: nn.Module
    costs: DynamicCosts
    rate: float | None = None
    mode: Any = "per_sample"

    def run(self, images: Tensor, seed: int) -> tuple[float, float]:
        """Seconds of one forward pass with the lots of a seed, and the MACs of its mean image."""
        if self.rate is not None:
            drawn = 1 if self.mode == "per_batch" else len(images)  # which decides once for all
            generator = torch.Generator().manual_seed(seed)
            lots = (torch.rand(2 * len(self.costs.branches), drawn, generator=generator) < self.rate).float()
            logits = torch.stack([0.5 - lots, lots - 0.5], dim=-1).expand(-1, len(images), -1).to(images.device)
            ForcedGate.told = iter(logits.unbind()) if 0 < self.rate < 1 else None
            for gate in gates_of(self.network):
                gate.last.bias.data.copy_(torch.tensor([0.0, SURE * (self.rate - 0.5)]))
            set_gating(self.network, self.mode)
            if images.is_cuda:
                torch.cuda.synchronize()
        started = time.perf_counter()
        self.network(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if self.rate is None:
            return seconds, self.costs.worst
        return seconds, float(self.costs.expected(lots.mean(1).unflatten(0, (-1, 2))))


def subjects(args: argparse.Namespace, batch: int) -> list[Subject]:
    """The dense network, and the same with gates of one kind at every rate and in the modes that differ.

    For a batch of one, all other kinds too where everything runs.
    """
    torch.manual_seed(0)
    dense = create_backbone(args.model).eval().to(args.device)
    gated = with_forced_gates(dense, args.gate)
    found = DynamicCosts.of(ArchSpec.of(gated))
    result = [Subject("dense", dense, DynamicCosts.of(dense.spec))]
    for mode in ("per_sample",) if batch == 1 else ("per_sample", "per_batch"):
        result += [Subject(f"{mode}, {100 * rate:.0f} % asked", gated, found, rate, mode) for rate in RATES]
    for name in (name for name in GATES if batch == 1 and name != args.gate):
        other = with_forced_gates(dense, name)
        result.append(Subject(f"gates {name}, 100 % asked", other, DynamicCosts.of(ArchSpec.of(other)), 1.0))
    return result


def with_forced_gates(dense: Backbone, name: str) -> nn.Module:
    """The network with a gate before every branch."""
    gated = from_spec(dense.spec.with_gates([(name, name)] * dense.spec.depth)).eval().to(dense.pos_embed.device)
    gated.load_state_dict(dense.state_dict(), strict=False)
    for gate in gates_of(gated):
        gate.__class__ = ForcedGate
    return gated


def measure(args: argparse.Namespace, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Rounds in which every subject runs once; ratios are those of a round."""
    torch.manual_seed(0)
    images, timed = torch.randn(batch, 3, 224, 224, device=args.device), subjects(args, batch)
    with torch.no_grad():
        rounds = [[subject.run(images, number) for subject in timed] for number in range(repeats + 2)][2:]
    rows = []
    for column, subject in enumerate(timed):
        seconds, macs = zip(*(found[column] for found in rounds), strict=True)
        rows.append({
            "title": subject.title, "batch": batch, "ms": 1000 * statistics.median(seconds),
            "ratio": statistics.median(found[column][0] / found[0][0] for found in rounds),
            "macs_ratio": statistics.fmean(macs) / timed[0].costs.worst,
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--gate", choices=list(GATES), default="gelu_ln_3", help="default: the dearest, %(default)s")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeats", type=int, nargs="+", default=[100, 10], help="rounds of each batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pairs = zip(args.batch_sizes, args.repeats, strict=True)
    rows = [row for batch, repeats in pairs for row in measure(args, batch, repeats)]
    facts = environment(torch.cuda.get_device_name() if args.device == "cuda" else "cpu")
    print(json.dumps({"rows": rows, "environment": facts}))
    cells = [
        [str(row["batch"]), row["title"], f"{row['ms']:.1f}", f"{row['ratio']:.3f}", f"{row['macs_ratio']:.3f}"]
        for row in rows
    ]
    counts = " and ".join(map(str, args.repeats))
    title = (
        f"{args.model}, gates {args.gate}, median of {counts} interleaved rounds; {facts['device']}, "
        f"{facts['threads']} threads, torch {facts['versions']['torch']}, commit {facts['commit']}."
    )
    table = markdown(["batch", "", "ms", "latency over dense", "MACs that ran, over dense"], cells)
    write_section(DOCUMENT, f"latency-{args.device}", f"{title}\n\n{table}")


if __name__ == "__main__":
    main()
