"""The tables of the study: means over the seeds that were finished."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from on_gpu.report_parts import Units, good, mean, table

SEPARATE = "separate"


def study(units: Units) -> Iterable[str]:
    """CIFAR-10 by width and by budget, then Caltech-101."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for unit in good(units, "study/cifar10/"):
        runs[unit["values"]["title"]].append(unit["values"])
    if runs:
        epochs = next(iter(runs.values()))[0]["epochs"]
        yield f"CIFAR-10, {epochs} epochs of every method, and as many of its dense network; top-1 on the test images:"
        yield widths(runs)
        yield budgets(runs)
    photographs = [unit["values"] for unit in good(units, "study/caltech/")]
    if photographs:
        yield "Caltech-101, ViT-S/14 without two of its blocks, from unlabeled photographs; top-1 on the test images:"
        yield few(photographs)


def widths(runs: dict[str, list[dict[str, Any]]]) -> str:
    """One network of all widths against one for each."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for title, values in runs.items():
        method = SEPARATE if title.startswith(SEPARATE) or title == "dense" else title
        for row in (row for run in values for row in run["rows"] if method in ("scala", "usnet", SEPARATE)):
            found[method][row["width"]].append(row["top1"])
    names = sorted({width for cells in found.values() for width in cells})
    rows = [[method, *(mean(cells[width]) if width in cells else "" for width in names), seeds(cells.values())]
            for method, cells in found.items()]  # fmt: skip
    return table(["width", *(f"{width:g}" for width in names), "seeds"], rows)


def budgets(runs: dict[str, list[dict[str, Any]]]) -> str:
    """What is cut from a dense network."""
    rows = []
    for title, values in runs.items():
        if title.split()[0] not in ("uvc", "magnitude", "random", "usdc"):
            continue
        ours, dense = [run["rows"][0] for run in values], [run["dense"] for run in values]
        lost = mean([row["top1"] - whole["top1"] for row, whole in zip(ours, dense, strict=True)])
        macs = 100 * ours[0]["macs"] / dense[0]["macs"]
        rows.append([title, mean([row["top1"] for row in ours]), lost, f"{macs:.1f}", str(len(ours))])
    return table(["", "top-1", "points beside its dense network", "MACs, % of dense", "seeds"], rows) if rows else ""


def few(runs: list[dict[str, Any]]) -> str:
    """Methods by the number of images."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    dense = [run["rows"][0]["top1"] for run in runs if run["title"] == "dense"]
    for run in (run for run in runs if "images" in run):
        found[run["title"].split()[0]][run["images"]].append(run["rows"][0]["top1"])
    counts = sorted({images for cells in found.values() for images in cells})
    rows = [["dense", *[mean(dense)] * len(counts), "1"]] if dense else []
    rows += [[method, *(mean(cells[images]) if images in cells else "" for images in counts), seeds(cells.values())]
             for method, cells in found.items()]  # fmt: skip
    return table(["", *(f"{images} images" for images in counts), "seeds"], rows)


def seeds(cells: Iterable[list[float]]) -> str:
    """How many there are at least, and at most."""
    counts = {len(values) for values in cells}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
