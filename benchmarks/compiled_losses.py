"""Whether twenty compiled steps give the losses of twenty steps as they are written: every method, the smallest sizes.

With dropout or stochastic depth. Methods that are tried are added to those that were. Exit code 1 where losses are
apart.
"""

import argparse
import sys
from typing import Any

import torch
from compiled_training import DOCUMENT, WAYS, Trained, by_graphs, ordered
from study import markdown, recorded_rows, write_section
from trainings import TRAININGS

from lightning_vitc import create_backbone
from lightning_vitc.pipeline.results import environment

STEPS, LR, APART = 20, 1e-3, 1e-4
TINY = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=32, depth=3, num_heads=4, num_classes=10)


def main() -> int:
    """Try what is named, and write it among what was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(TRAININGS), choices=list(TRAININGS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, apart = environment("cpu"), 0.0
    for method in args.methods:
        found = {way: tried(method, way) for way in ways_of(method)}
        rows = {(method, way): [*row(method, way, one), str(facts["commit"])] for way, one in found.items()}
        print(*rows.values(), sep="\n", flush=True)
        write_section(DOCUMENT, "losses", section(recorded_rows(DOCUMENT, "losses") | rows, facts))
        apart = max(apart, *(one["apart"] for one in found.values()))
    return int(apart > APART)


def ways_of(method: str) -> list[str]:
    """`whole` is refused where gates decide by the image."""
    return [way for way in WAYS if not (way == "whole" and method.startswith("usdc"))]


def tried(method: str, way: str) -> dict[str, Any]:
    """The largest difference of two losses of a step, how far training has come, and how many graphs it made."""
    torch._dynamo.reset()
    torch.manual_seed(3)
    rates = {"drop_path_rate": 0.2} if way == "blocks" else {"proj_drop_rate": 0.1}
    name = "deit_small_distilled_patch16_224"
    written = Trained(TRAININGS[method](create_backbone(name, **TINY, **rates)), LR)
    compiled = Trained(by_graphs(written.module, way), LR)
    draw = torch.Generator().manual_seed(4)
    for _ in range(STEPS):
        images, targets = torch.randn(8, 1, 8, 8, generator=draw), torch.randint(10, (8,), generator=draw)
        for one in (written, compiled):
            one.step(images, targets)
    torch._dynamo.reset()
    apart = max(abs(loss - other) for loss, other in zip(compiled.losses, written.losses, strict=True))
    return {"apart": apart, "moved": abs(written.losses[-1] - written.losses[0]), "graphs": sum(compiled.graphs)}


def row(method: str, way: str, one: dict[str, Any]) -> list[str]:
    """Of the table."""
    return [method, way, f"{one['apart']:.0e}", f"{one['moved']:.2f}", str(one["graphs"])]


def section(rows: dict[tuple[str, str], list[str]], facts: dict[str, Any]) -> str:
    """The table, and with what it was found."""
    title = f"{STEPS} steps of networks of three blocks, 32 wide, on the CPU, torch {facts['versions']['torch']}."
    header = ["", "", "losses differ by at most", "first and last loss differ by", "graphs", "commit"]
    return f"{title}\n\n{markdown(header, ordered(rows))}"


if __name__ == "__main__":
    sys.exit(main())
