"""Whether twenty compiled steps give the losses of twenty steps as they are written: every method, the smallest sizes.

With dropout or stochastic depth. Methods that are tried are added to those that were. Exit code 1 where losses are
apart.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from compiled_training import DOCUMENT, WAYS, Trained, by_graphs
from study import REPOSITORY, markdown, write_section
from trainings import TRAININGS

from lightning_vitc import create_backbone
from lightning_vitc.pipeline.results import environment

STEPS, LR, APART = 20, 1e-3, 1e-4
TINY = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=32, depth=3, num_heads=4, num_classes=10)


def main() -> int:
    """Try what is named, keep it, and write the table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(TRAININGS), choices=list(TRAININGS))
    parser.add_argument("--kept", type=Path, default=REPOSITORY / "runs" / "studies" / "compiled_losses.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.kept.read_text()) if args.kept.exists() else {}
    for method in args.methods:
        found[method] = {way: tried(method, way) for way in ways_of(method)} | {"environment": environment("cpu")}
        print(method, json.dumps(found[method]), flush=True)
        args.kept.parent.mkdir(parents=True, exist_ok=True)
        args.kept.write_text(json.dumps(found, indent=1))
    write_section(DOCUMENT, "losses", section(found))
    return int(any(one[way]["apart"] > APART for one in found.values() for way in WAYS if way in one))


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


def section(found: dict[str, dict[str, Any]]) -> str:
    """The table, and where it was tried."""
    rows = [[method, way, f"{one['apart']:.0e}", f"{one['moved']:.2f}", str(one["graphs"])]
            for method in TRAININGS for way in WAYS if (one := found.get(method, {}).get(way))]  # fmt: skip
    facts = [one["environment"] for one in found.values()][-1]
    title = (
        f"{STEPS} steps of a network of 3 blocks of 32, torch {facts['versions']['torch']}, commit {facts['commit']}."
    )
    header = ["", "", "losses differ by at most", "the loss moved by", "graphs"]
    return f"{title}\n\n{markdown(header, rows)}"


if __name__ == "__main__":
    sys.exit(main())
