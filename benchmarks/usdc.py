"""USDC, its parts alone, its groupings over inference batch sizes, and its gate search against fixed gates."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from study import REPOSITORY, Run, execute, markdown, mean_and_spread, study_arguments, write_section

from lightning_vitc import ArchSpec, costs
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.networks.gates.shapes import GATES
from lightning_vitc.networks.gates.skipping import noting_decisions, set_gating
from lightning_vitc.pipeline.finished import networks_of_run

BUDGETS = (73, 50)
BATCHES = (1, 8, 32, 256)
ORDERS = {"digits": 20, "glyphs": 4}  # of the test images, which make other batches of them
DOCUMENT = REPOSITORY / "docs" / "results" / "usdc.md"
JOINT = "joint"
PARTS = {JOINT: (), "static only": ("method.dynamic=false",), "dynamic only": ("method.static=false",)}
GROUPINGS = ("recursive", "avg-32", "avg-8", "random", "sample", "batch")
MODELS = {"digits": ("model.depth=8", "trainer.max_epochs=60"), "glyphs": ("model.depth=6", "trainer.max_epochs=15")}
LARGE = {  # batches beyond the 32 of avg-32, and more epochs, of fewer steps in all
    "digits": ("data.batch_size=128", "trainer.max_epochs=20", "method.finetune_epochs=30"),
    "glyphs": ("data.batch_size=256", "trainer.max_epochs=6", "method.finetune_epochs=6"),
}
MOVED = "gates moved by at most, worst change of val top-1"
Table = dict[str, list[Run]]  # by the title of a row, a run a seed


@dataclass(frozen=True)
class Study:
    """The runs of one data set; a run that two tables need is made once."""

    data: str
    seeds: list[int]
    folder: Path
    budgets: list[int]  # of the parts, in percent
    stress: int  # the budget, in percent, at which groupings and gate networks are compared

    @property
    def orders(self) -> int:
        """Of the test images, over which inference batch sizes are averaged."""
        return ORDERS[self.data]

    @property
    def dense(self) -> list[Run]:
        """The teachers, one a seed."""
        model = ("model.name=deit_tiny_patch16_224", *MODELS[self.data])
        return [Run("dense", f"dense_{self.data}", seed, model) for seed in self.seeds]

    def runs(self, title: str, budget: int, overrides: tuple[str, ...] = ()) -> list[Run]:
        """A setting, once a seed."""
        name = f"usdc-{title.replace(' ', '-')}-{budget}"
        return [
            Run(name, f"usdc_{self.data}", dense.seed,
                (*overrides, f"budget.macs={budget}%", "teacher.train=false", "teacher.epochs=null",
                 f"teacher.run={dense.directory(self.folder)}"))
            for dense in self.dense
        ]  # fmt: skip

    @property
    def parts(self) -> dict[int, Table]:
        """Joint, static only and dynamic only, by budget."""
        return {
            budget: {title: self.runs(title, budget, keys) for title, keys in PARTS.items()} for budget in self.budgets
        }

    @property
    def groupings(self) -> Table:
        """One training each at one budget, in batches that all six divide differently; and USDC as it is."""
        large = LARGE[self.data]
        pure = {
            name: self.runs(name, self.stress, (f"method.grouping={name}", "method.finetune_per_sample=0", *large))
            for name in GROUPINGS
        }
        return pure | {
            "recursive, and half alone": self.runs(
                "half alone", self.stress, ("method.finetune_per_sample=0.5", *large)
            )
        }

    @property
    def searches(self) -> Table:
        """The search among gate networks, and each of them fixed."""
        fixed = {name: self.runs(f"fixed-{name}", self.stress, (f"method.gate_search=fixed:{name}",)) for name in GATES}
        return {"search": self.runs(JOINT, self.stress), **fixed}

    def runs_of(self, sections: list[str]) -> list[Run]:
        """Every run that these sections need, each once."""
        tables = {"parts": [*self.parts.values()], "groupings": [self.groupings], "searches": [self.searches]}
        needed = [runs for name in sections for table in tables[name] for runs in table.values()]
        return list(dict.fromkeys(run for runs in needed for run in runs))


def parts_table(study: Study) -> str:
    """Accuracy of joint, static and dynamic at equal expected MACs; below it what each costs."""
    accuracy: dict[str, list[str]] = {title: [] for title in PARTS}
    shares = []
    for budget, table in study.parts.items():
        for title, runs in table.items():
            results = [run.result(study.folder) for run in runs]
            rows = [result["rows"][0] for result in results]
            dense = results[0]["dense"]
            accuracy[title].append(mean_and_spread([row["top1"] for row in rows]))
            macs = [mean_of(100 * row[key] / dense["macs"] for row in rows) for key in ("expected_macs", "worst_macs")]
            sizes = [mean_of(100 * row["params"] / dense["params"] for row in rows),
                     mean_of(row["bytes"] / 1e6 for row in rows)]  # fmt: skip
            shares.append([title, f"{budget} %", *macs, *sizes, moved(study, runs)])
    first = markdown(["top-1 % (test)", *(f"{budget} % expected MACs" for budget in study.budgets)],
                     [[title, *cells] for title, cells in accuracy.items()])  # fmt: skip
    header = ["", "budget", "expected MACs, % of dense", "worst case, %", "parameters, %", "MB", MOVED]
    return f"{first}\n\n{markdown(header, shares)}"


def moved(study: Study, runs: list[Run]) -> str:
    """How far the gates of these runs were moved to hold the budget, at most, and what that did to the validation."""
    files = [file for run in runs if (file := run.directory(study.folder) / "gates.json").exists()]
    found = [json.loads(file.read_text()) for file in files]
    if not found:
        return "no gates"
    worst = min(facts["val_top1"]["moved"] - facts["val_top1"]["trained"] for facts in found)
    return f"{max(abs(facts['shift']) for facts in found):.2f}, {worst:+.1f}"


def mean_of(values: Iterable[float]) -> str:
    """Their mean, with one decimal."""
    listed = list(values)
    return f"{sum(listed) / len(listed):.1f}"


def groupings_table(study: Study) -> str:
    """Accuracy with per-batch gates by inference batch size, its spread, and the MACs that ran."""
    rows, ran = [], []
    for title, runs in study.groupings.items():
        found = [by_batch_size(run.directory(study.folder), study.orders) for run in runs]
        accuracy = [[result[str(size)]["top1"] for size in BATCHES] for result in found]
        spreads = [max(values) - min(values) for values in accuracy]
        columns = [mean_and_spread(list(column)) for column in zip(*accuracy, strict=True)]
        rows.append([title, *columns, mean_and_spread(spreads)])
        shares = [mean_of(result[str(size)]["ran_percent"] for result in found) for size in BATCHES]
        ran.append([title, *shares, moved(study, runs)])
    header = ["grouping in training", *(f"batch {size}" for size in BATCHES)]
    return (
        f"One decision a batch (`per_batch`), {study.stress} % of the MACs, by inference batch size, over "
        f"{study.orders} orders of the test images; trained with `{' '.join(LARGE[study.data])}`, the six with "
        "`method.finetune_per_sample=0`, that is in groups to the end, the last row as by default:\n\n"
        f"{markdown([*header, 'spread'], rows)}\n\nMACs that ran, in percent of the dense model:\n\n"
        f"{markdown([*header, MOVED], ran)}"
    )


def by_batch_size(run: Path, number: int) -> dict[str, dict[str, float]]:
    """Top-1 on the test split and run rates with `per_batch` gates, the mean over a number of draws of the batches.

    Kept beside the run.
    """
    kept = run / f"batch_sizes_{number}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    pipeline, networks = networks_of_run(run)
    network = next(network.module for network in networks if network.name == "usdc")
    images, targets = zip(*pipeline.data.loader_of("test"), strict=True)
    pixels, classes = torch.cat(images), torch.cat(targets)
    set_gating(network, "per_batch")
    dense, found = costs.macs(pipeline.dense_spec), {}
    orders = [torch.randperm(len(pixels), generator=torch.Generator().manual_seed(draw)) for draw in range(number)]
    for size in BATCHES:
        draws = [measured(network, pixels[order], classes[order], size, dense)
                 for order in (orders if size > 1 else orders[:1])]  # fmt: skip
        found[str(size)] = {key: statistics.fmean(draw[key] for draw in draws) for key in draws[0]}
    kept.write_text(json.dumps(found))
    return found


@torch.no_grad()
def measured(network: Any, images: torch.Tensor, classes: torch.Tensor, size: int, dense: int) -> dict[str, float]:
    """Top-1 and the MACs that ran, both in percent, at one inference batch size."""
    right, ran, found = 0, 0.0, DynamicCosts.of(ArchSpec.of(network))
    for part, wanted in zip(images.split(size), classes.split(size), strict=True):
        with noting_decisions(network) as decided:
            right += int((network(part).argmax(-1) == wanted).sum())
        ran += float(found.expected(torch.stack(decided, dim=1).unflatten(1, (-1, 2)).float()).sum())
    return {"top1": 100 * right / len(images), "ran_percent": 100 * ran / len(images) / dense}


def searches_table(study: Study) -> str:
    """Accuracy of the search among gate networks and of each network alone, and what the search chose."""
    rows = []
    for title, runs in study.searches.items():
        results = [run.result(study.folder)["rows"][0] for run in runs]
        chosen: dict[str, int] = {}
        for run in runs:
            facts = json.loads((run.directory(study.folder) / "gates.json").read_text())
            for name in (name for pair in facts["networks"] for name in pair):
                chosen[name] = chosen.get(name, 0) + 1
        listed = ", ".join(f"{name} {count}" for name, count in sorted(chosen.items(), key=lambda item: -item[1]))
        rows.append([title, mean_and_spread([row["top1"] for row in results]), listed])
    return (
        f"The search among gate networks against each of them, {study.stress} % of the MACs:\n\n"
        f"{markdown(['gate networks', 'top-1 % (test)', 'chosen, over all seeds'], rows)}"
    )


def main() -> None:
    """Train what is missing, then write."""
    parser = study_arguments(__doc__)
    parser.add_argument("--data", choices=list(MODELS), default="digits")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="of the parts, %% of MACs")
    parser.add_argument("--stress", type=int, default=50, help="budget of groupings and gate networks, %% of MACs")
    parser.add_argument("--sections", choices=list(SECTIONS), nargs="+", default=list(SECTIONS), help="default: all")
    args = parser.parse_args()
    study = Study(args.data, args.seeds, args.runs, args.budgets, args.stress)
    runs = [*study.dense, *study.runs_of(args.sections)]
    if not args.table_only:
        execute(study.dense, args.runs, args.jobs)
        execute(runs, args.runs, args.jobs)
    dense = mean_and_spread([run.top1(args.runs, 1.0) for run in study.dense])
    head = (
        f"{args.data.capitalize()}, seeds {args.seeds}, mean ± standard deviation. The dense network reaches {dense}."
    )
    for name in args.sections:
        needed = [*study.dense, *study.runs_of([name])]
        body = f"{head}\n\n{SECTIONS[name](study)}"
        write_section(DOCUMENT, f"{args.data}-{name}", body, [run.result(args.runs) for run in needed])


SECTIONS = {"parts": parts_table, "groupings": groupings_table, "searches": searches_table}

if __name__ == "__main__":
    main()
