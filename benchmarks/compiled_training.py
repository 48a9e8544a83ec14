"""A compiled training step against one as it is written, interleaved. DeiT-S at 224 px by default.

Steps are measured by the seconds of one core, which do not count what else the machine does; compiling by the clock.
Methods that are measured are added to those that were, so that each call may be short.
"""

import argparse
import statistics
import time
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from study import REPOSITORY, markdown, recorded_rows, write_section
from trainings import TRAININGS, search

from lightning_vitc import create_backbone
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.pipeline.results import environment
from lightning_vitc.training.module import CompressionModule

DOCUMENT = REPOSITORY / "docs" / "results" / "compiled.md"
WAYS = ("blocks", "whole")
HEADER = ["", "", "steps/s as written", "compiled over written", "compiling", "graphs", "made later",
          "losses differ by", "images", "steps", "commit"]  # fmt: skip


def main() -> None:
    """Measure what is named, and write it among what was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=list(TRAININGS), choices=list(TRAININGS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.compiler.config.force_disable_caches = True  # seconds as of the first run on a machine
    facts = environment("cpu")
    for method in args.methods:
        found = measure(method, args)
        own = [str(args.batch_size), str(args.repeats), str(facts["commit"])]
        rows = {(method, way): [*row(method, way, found), *own] for way in WAYS if way in found}
        print(*rows.values(), sep="\n", flush=True)
        write_section(DOCUMENT, "cpu", section(recorded_rows(DOCUMENT, "cpu") | rows, facts, args))


@dataclass
class Trained:
    """One way to train, and what its steps took (of the core, by the clock), gave and made."""

    module: CompressionModule
    lr: float = 1e-4
    seconds: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    graphs: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        weights = [weight for weight in self.module.train().parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=self.lr)

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """One more, from random numbers of its own."""
        torch.manual_seed(len(self.seconds))
        made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        started, clock = time.process_time(), time.perf_counter()
        loss = self.module.step(images, targets).loss
        loss.backward()
        self.optimizer.step()
        search(self.module, self.lr)
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.process_time() - started)
        self.clock.append(time.perf_counter() - clock)
        self.losses.append(loss.item())
        self.graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - made)


def measure(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Each way in turn, step by step; the median over steps of the ratio of their times."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    written = Trained(TRAININGS[method](create_backbone(args.model, img_size=args.img_size)))
    ways = [way for way in args.ways if not (way == "whole" and method.startswith("usdc"))]  # refused: gates decide
    compiled = {way: Trained(by_graphs(written.module, way)) for way in ways}
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size)
    targets = torch.randint(1000, (args.batch_size,))
    for _ in range(args.repeats + 2):  # the first compiles, the second warms up
        for one in (written, *compiled.values()):
            one.step(images, targets)
    rows = {way: compared(one, written) for way, one in compiled.items()}
    return {"written_s": statistics.median(written.seconds[2:])} | rows


def by_graphs(module: CompressionModule, way: Any) -> CompressionModule:
    """A copy that is trained so."""
    copy = deepcopy(module)
    for part in copy.modules():
        if isinstance(part, Backbone):
            part.set_compiled(way)
    return copy


def compared(one: Trained, written: Trained) -> dict[str, Any]:
    """What compiling takes and brings."""
    ratios = [after / before for after, before in zip(one.seconds[2:], written.seconds[2:], strict=True)]
    apart = max(abs(loss - other) for loss, other in zip(one.losses, written.losses, strict=True))
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
            "compile_s": one.clock[0] - statistics.median(one.clock[2:]), "graphs": one.graphs[0],
            "recompiled": sum(one.graphs[1:]), "loss_difference": apart}  # fmt: skip


def section(rows: dict[tuple[str, str], list[str]], facts: dict[str, Any], args: argparse.Namespace) -> str:
    """The table, and where it was measured."""
    title = (f"{args.model}, {args.img_size} px, fp32; images of a batch and interleaved steps as in the table; "
             f"{facts['device']}, one thread, torch {facts['versions']['torch']}.")  # fmt: skip
    return f"{title}\n\n{markdown(HEADER, ordered(rows))}"


def ordered(rows: dict[tuple[str, str], list[str]]) -> list[list[str]]:
    """Those of a table, by method and way."""
    return [rows[method, way] for method in TRAININGS for way in WAYS if (method, way) in rows]


def row(method: str, way: str, one: dict[str, Any]) -> list[str]:
    """The steps per second of one method, and how many times as many there are, lowest to highest."""
    how = one[way]
    faster = [1 / how[name] for name in ("ratio", "highest", "lowest")]
    return [method, way, f"{1 / one['written_s']:.2f}", "{:.2f} ({:.2f} to {:.2f})".format(*faster),
            f"{how['compile_s']:.0f} s", str(how["graphs"]), str(how["recompiled"]),
            f"{how['loss_difference']:.0e}"]  # fmt: skip


if __name__ == "__main__":
    main()
