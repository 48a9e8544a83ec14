"""UVC, its ablations and one-shot pruning at equal MACs and equal epochs after the dense training."""

import argparse
from dataclasses import dataclass

from study import REPOSITORY, Run, execute, markdown, mean_and_spread, slug, study_arguments, write_section

BUDGETS = (70, 50, 30)
EVERY, HALF = BUDGETS, (50,)
DOCUMENT = REPOSITORY / "docs" / "results" / "uvc.md"


@dataclass(frozen=True)
class Method:
    """A row of the table: an experiment of a data set, with overrides, at some budgets in percent of dense MACs."""

    title: str
    experiment: str
    overrides: tuple[str, ...] = ()
    digits: tuple[int, ...] = EVERY
    glyphs: tuple[int, ...] = EVERY


METHODS = (
    Method("UVC", "uvc"),
    Method("UVC prune only", "uvc", ("method.skip=none",)),
    Method("UVC skip only", "uvc", ("method.prune=false",)),
    Method("UVC skipping sublayers", "uvc", ("method.skip=sublayer",), digits=HALF, glyphs=HALF),
    Method("UVC without distillation", "uvc", ("method.distillation=0",), digits=HALF, glyphs=HALF),
    Method("magnitude", "magnitude"),
    Method("random", "magnitude", ("method.criterion=random",)),
)


def plan(data: str, seeds: list[int], args: argparse.Namespace) -> tuple[list[Run], dict[str, dict[int, list[Run]]]]:
    """The dense runs, one a seed, and by method and budget the runs they teach."""
    model = {"digits": 8, "glyphs": 6}[data]
    epochs = {"digits": 60, "glyphs": 15}[data]
    overrides = ("model.name=deit_tiny_patch16_224", f"model.depth={model}", f"trainer.max_epochs={epochs}")
    dense = {seed: Run("dense", f"dense_{data}", seed, overrides) for seed in seeds}
    runs: dict[str, dict[int, list[Run]]] = {}
    for method in METHODS:
        for budget in getattr(method, data):
            runs.setdefault(method.title, {})[budget] = [
                Run(f"{slug(method.title)}-{budget}", f"{method.experiment}_{data}", seed,
                    (*method.overrides, f"budget.macs={budget}%", "teacher.train=false", "teacher.epochs=null",
                     f"teacher.run={dense[seed].directory(args.runs)}"))
                for seed in seeds
            ]  # fmt: skip
    return list(dense.values()), runs


def table(runs: dict[str, dict[int, list[Run]]], args: argparse.Namespace) -> str:
    """Accuracy by budget; below it what was achieved and by what."""
    accuracy, shares = [], []
    for title, by_budget in runs.items():
        cells = {}
        for budget, same in by_budget.items():
            rows = [run.result(args.runs)["rows"][0] for run in same]
            dense = [run.result(args.runs)["dense"]["macs"] for run in same]
            cells[budget] = mean_and_spread([row["top1"] for row in rows])
            achieved = [100 * row["macs"] / whole for row, whole in zip(rows, dense, strict=True)]
            shares.append([title, f"{budget} %", f"{min(achieved):.2f} to {max(achieved):.2f} %",
                           *(_mean(row[key] for row in rows) for key in ("pruned_percent", "skipped_percent")),
                           ", ".join(str(row["blocks"]) for row in rows)])  # fmt: skip
        accuracy.append([title, *(cells.get(budget, "") for budget in BUDGETS)])
    header = ["top-1 % (test)", *(f"{budget} % of MACs" for budget in BUDGETS)]
    second = ["", "budget", "achieved, of dense", "pruned %", "skipped %", "blocks left"]
    return f"{markdown(header, accuracy)}\n\n{markdown(second, shares)}"


def _mean(values: object) -> str:
    listed = list(values)  # type: ignore[call-overload]
    return f"{sum(listed) / len(listed):.1f}"


def main() -> None:
    """Train what is missing, then write."""
    parser = study_arguments(__doc__)
    parser.add_argument("--data", choices=["digits", "glyphs"], default="digits")
    args = parser.parse_args()
    dense, runs = plan(args.data, args.seeds, args)
    everything = [run for by_budget in runs.values() for same in by_budget.values() for run in same]
    if not args.table_only:
        execute(dense, args.runs, args.jobs)
        execute(everything, args.runs, args.jobs)
    top1 = mean_and_spread([run.top1(args.runs, 1.0) for run in dense])
    results = [run.result(args.runs) for run in [*dense, *everything]]
    body = f"Seeds {args.seeds}, mean ± standard deviation. The dense network reaches {top1}.\n\n{table(runs, args)}"
    write_section(DOCUMENT, args.data, body, results)


if __name__ == "__main__":
    main()
