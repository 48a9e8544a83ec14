"""Pruning without any training: `compensate`, its criteria and its regression against one-shot pruning."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from study import REPOSITORY, Run, execute, markdown, mean_and_spread, study_arguments, write_section

from lightning_vitc import costs
from lightning_vitc.budget.prunable import kept_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.compensation.calibration import SEEN_AT_ONCE, Calibration
from lightning_vitc.compensation.deciding import decide
from lightning_vitc.compensation.elastic import CompensatedViT, Settings
from lightning_vitc.compensation.in_order import compensated
from lightning_vitc.compensation.ranking import Ranking, rank
from lightning_vitc.compensation.statistics import Statistics, measure
from lightning_vitc.config import load_experiment
from lightning_vitc.methods.one_shot import cut, uniform_size
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.pipeline.evaluation import evaluate
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.train import hush
from lightning_vitc.pipeline.trainers import test_trainer
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import BudgetConfig

DOCUMENT = REPOSITORY / "docs" / "results" / "compensate.md"
BUDGETS = {"digits": (90, 80, 70, 50, 30, 20, 10), "caltech": (90, 80, 70, 50)}  # percent of the dense MACs
CRITERIA, FOLDS = ("energy", "variance", "sensitivity"), ("regression", "none")
RIDGES = (1e-1, 1e-5)  # beside the default
DENSE = ("model.name=deit_tiny_patch16_224", "model.depth=8", "trainer.max_epochs=60")  # as benchmarks/uvc.py has them
NOT_TRAINED = ("teacher.train=false", "teacher.epochs=null", "teacher.mixup=null", "teacher.smoothing=null")
FOLDED = {"regression": "regression", "none": "cut off"}
Made = Callable[[], tuple[Any, dict[str, float]]]


@dataclass
class Subject:
    """The dense network of a seed, its images, and what is computed of them once."""

    run: Pipeline
    network: Backbone
    seen: Calibration
    rankings: dict[str, Ranking]
    statistics: Statistics
    costs: UnitCosts
    seconds: dict[str, float]

    @classmethod
    def of(cls, experiment: str, overrides: tuple[str, ...], folder: Path) -> "Subject":
        """Read and ranked."""
        config = load_experiment(experiment, list(overrides))
        run = Pipeline(config, RunDirectory(folder / "unused"))
        network, seconds = run.start().eval(), {}
        seen = Calibration.of(run.data.images_of("train"), SEEN_AT_ONCE)
        rankings = {}
        for criterion in CRITERIA:
            started = time.process_time()
            rankings[criterion] = rank(network, seen, criterion, config.seed)  # type: ignore[arg-type]
            seconds[f"ranking by {criterion}"] = time.process_time() - started
        started = time.process_time()
        stored = measure(network, seen)
        seconds["statistics for other budgets"] = time.process_time() - started
        return cls(run, network, seen, rankings, stored, UnitCosts.of(network.spec), seconds)

    def rows(self, limit: int) -> Iterator[tuple[str, Made]]:
        """Every row of the tables at a budget, and what makes its network."""
        for criterion, fold in product(CRITERIA, FOLDS):
            yield f"{criterion}, {FOLDED[fold]}", self._made(limit, criterion, fold)
        yield "sensitivity, mean into the bias", self._made(limit, "sensitivity", "mean")
        yield "sensitivity, regression, no block gone", self._made(limit, "sensitivity", "regression", skip="none")
        yield "sensitivity, regression from stored statistics", lambda: (self._elastic(limit), {})
        for ridge in RIDGES:
            yield f"sensitivity, regression, ridge {ridge:g}", self._made(limit, "sensitivity", "regression", ridge)
        for criterion in ("magnitude", "random"):
            yield f"one-shot, {criterion}", lambda criterion=criterion: (self._one_shot(limit, criterion), {})

    def top1(self, networks: dict[str, Any]) -> dict[str, float]:
        """On the test split, in percent."""
        names = {f"row_{number}": name for number, name in enumerate(networks)}  # a module's name has no dots
        modules = {key: networks[name] for key, name in names.items()}
        found = evaluate(test_trainer(self.run.experiment), modules, self.run.data.num_classes, self.run.data).accuracy
        return {names[key]: value["top1"] for key, value in found.items()}

    @torch.no_grad()
    def changes(self, networks: dict[str, Any]) -> dict[str, float]:
        """Of the features of test images, in percent of their square."""
        seen = self.run.data.spread_images("test", 500)
        whole = self.network.forward_features(seen)
        apart = {name: (network.forward_features(seen) - whole).square().mean() for name, network in networks.items()}
        return {name: float(100 * change / whole.square().mean()) for name, change in apart.items()}

    def _made(self, limit: int, criterion: str, fold: str, ridge: float = 1e-3, skip: str = "block") -> Made:
        def make() -> tuple[Any, dict[str, float]]:
            started = time.process_time()
            masks = decide(self.rankings[criterion], self.network.spec, self.costs, limit, self._budget, skip)  # type: ignore[arg-type]
            decided = time.process_time()
            if fold == "none":
                return compact(self.network, kept_of(self.network.spec, masks)), {}
            small = compensated(self.network, masks, self.seen, fold, ridge)  # type: ignore[arg-type]
            return compact(small, None), {"decision": decided - started, "weights": time.process_time() - decided}

        return make

    def _elastic(self, limit: int) -> Any:
        least = vars(self._budget.min_keep)
        how = Settings("macs", "full", self._budget.round_to, least, "block", "regression", 1e-3)
        model = CompensatedViT(compact(self.network, None), self.rankings["sensitivity"], self.statistics, how)
        return model.network_within(limit)

    def _one_shot(self, limit: int, criterion: str) -> Any:
        size = uniform_size(self.costs, limit, BudgetConfig())
        masks = cut(self.network, criterion, *size, seed=self.run.experiment.seed)
        return compact(self.network, kept_of(self.network.spec, masks))

    @property
    def _budget(self) -> BudgetConfig:
        return self.run.experiment.budget


def cells(args: argparse.Namespace, seed: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    """What is measured of a seed: top-1 and MACs of every row by budget; kept, and measured where it is missing."""
    file = args.runs / "compensate" / f"{args.data}-{seed}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    missing = [budget for budget in BUDGETS[args.data] if str(budget) not in found]
    if not missing or args.table_only:
        return found
    subject = Subject.of(f"compensate_{args.data}", overrides, args.runs)
    found["seconds"] = subject.seconds
    found["dense"] = subject.top1({"dense": compact(subject.network, None)})["dense"]
    for budget in missing:
        networks, seconds = {}, {}
        for name, make in subject.rows(budget * subject.costs.dense // 100):
            networks[name], seconds[name] = make()
        top1, changes = subject.top1(networks), subject.changes(networks)
        found[str(budget)] = {
            name: {"top1": top1[name], "change": changes[name], "macs": costs.macs(network.spec) / subject.costs.dense,
                   "blocks": network.spec.depth, "seconds": seconds[name]}
            for name, network in networks.items()
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
        print(f"{args.data}, seed {seed}, {budget} %", flush=True)
    return found


def tables(found: list[dict[str, Any]], budgets: Sequence[int]) -> str:
    """Accuracies, changes of features, what was reached, and seconds."""
    names = list(found[0][str(budgets[0])])

    def table(title: str, chosen: Sequence[str], cell: Callable[[int, str], str]) -> str:
        header = [title, *(f"{budget} % of MACs" for budget in budgets)]
        return markdown(header, [[name, *(cell(budget, name) for budget in budgets)] for name in chosen])

    def mean(key: str) -> Callable[[int, str], str]:
        return lambda budget, name: mean_and_spread([one[str(budget)][name][key] for one in found])

    changed = "squared change of the features, % of their square"
    parts = [
        table("top-1 % (test), no step of training", names, mean("top1")),
        table(changed, names, mean("change")),
        table("MACs reached in %; blocks left", names[:6:2], partial(_left, found)),
        markdown(["CPU seconds, one thread", ""], _seconds(found, budgets[-1])),
    ]
    return "\n\n".join(parts)


def _left(found: list[dict[str, Any]], budget: int, name: str) -> str:
    reached = [one[str(budget)][name] for one in found]
    blocks = ", ".join(str(one["blocks"]) for one in reached)
    return f"{min(100 * one['macs'] for one in reached):.2f}; {blocks}"


def _seconds(found: list[dict[str, Any]], budget: int) -> list[list[str]]:
    rows = [[name, f"{statistics.fmean(one['seconds'][name] for one in found):.1f}"] for name in found[0]["seconds"]]
    for what in ("decision", "weights"):
        times = [one[str(budget)]["sensitivity, regression"]["seconds"][what] for one in found]
        rows.append([f"{what}, {budget} % of MACs", f"{statistics.fmean(times):.1f}"])
    return rows


def main() -> None:
    """Train what is missing, measure, then write."""
    parser = study_arguments(__doc__)
    parser.add_argument("--data", choices=["digits", "caltech"], default="digits")
    parser.add_argument("--root", help="of the photographs, for --data caltech")
    parser.add_argument("--dense", help="run of dense_caltech, for --data caltech; {seed} stands for the seed")
    args = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    if args.data == "digits":
        dense = {seed: Run("dense", "dense_digits", seed, DENSE) for seed in args.seeds}
        if not args.table_only:
            execute(dense.values(), args.runs, args.jobs)
        more = {seed: (*NOT_TRAINED, f"teacher.run={run.directory(args.runs)}") for seed, run in dense.items()}
        results = [run.result(args.runs) for run in dense.values()]
    else:
        more = {seed: (f"data.root={args.root}", f"teacher.run={args.dense.format(seed=seed)}") for seed in args.seeds}
        results = []
    found = [cells(args, seed, (*more[seed], f"seed={seed}")) for seed in args.seeds]
    top1 = mean_and_spread([one["dense"] for one in found])
    body = f"Seeds {args.seeds}, mean ± standard deviation; 256 unlabeled images. The dense network reaches {top1}."
    write_section(DOCUMENT, args.data, f"{body}\n\n{tables(found, BUDGETS[args.data])}", results)


if __name__ == "__main__":
    main()
