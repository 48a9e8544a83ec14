"""USDC, its parts alone, and whether it spends more on photographs that are hard for the dense network."""

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from study import Run, markdown

from lightning_vitc import ArchSpec
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.networks.gates.skipping import noting_decisions
from lightning_vitc.pipeline.finished import networks_of_run
from on_photographs.setting import HALF, TRAIN, Part, Phases, Planned, Setting, cell, kept

BUDGETS = (73, 50)
JOINT, AFTER = 1, 2  # half epochs of the joint training and of what is left
PARTS_OF_USDC = {"joint": (), "static only": ("method.dynamic=false",), "dynamic only": ("method.static=false",)}


def run_of(setting: Setting, title: str, budget: int, seed: int) -> Run:
    """At a budget of expected MACs, in percent."""
    keys = (f"trainer.max_epochs={JOINT}", f"method.finetune_epochs={AFTER}", f"budget.macs={budget}%", HALF)
    return setting.of_original(
        f"{title.replace(' ', '-')}-{budget}", "usdc_caltech", seed, *keys, *PARTS_OF_USDC[title]
    )


def phases(setting: Setting) -> Phases:
    """All at once; the teacher sees every image too, and gated branches are computed in training."""
    images = (JOINT + AFTER) * TRAIN["caltech"] / 2
    return [[Planned(run_of(setting, title, budget, seed), images, images)
             for title in PARTS_OF_USDC for budget in BUDGETS for seed in setting.seeds]]  # fmt: skip


def table(setting: Setting) -> str:
    """Accuracy, what runs, and the rank correlation of it with the dense network's loss."""
    rows = []
    for title in PARTS_OF_USDC:
        for budget in BUDGETS:
            runs = [run_of(setting, title, budget, seed) for seed in setting.seeds]
            results = [run.result(setting.folder) for run in runs]
            found = [result["rows"][0] for result in results]
            macs = [100 * row.get("expected_macs", row["macs"]) / result["dense"]["macs"]
                    for row, result in zip(found, results, strict=True)]  # fmt: skip
            ranks = "" if title == "static only" else cell([correlation(setting, run) for run in runs])
            rows.append([title, f"{budget} %", cell([row["top1"] for row in found]), cell(macs), ranks])
    header = ["", "budget", "top-1 % (test)", "expected MACs, % of dense", "Spearman of MACs run with the dense loss"]
    return markdown(header, rows)


def correlation(setting: Setting, run: Run) -> float:
    """Spearman's, over the photographs of the test split; positive where more is spent on what is hard."""
    return kept(setting, "hardness", run, lambda: _correlation(setting, run))


@torch.no_grad()
def _correlation(setting: Setting, run: Run) -> float:
    pipeline, networks = networks_of_run(run.directory(setting.folder))
    by_name = {network.name: network.module.eval() for network in networks}
    gated, dense = by_name["usdc"], by_name["dense"]
    costs, losses, macs = DynamicCosts.of(ArchSpec.of(gated)), [], []
    for images, targets in pipeline.data.test_dataloader():
        losses.append(F.cross_entropy(dense(images), targets, reduction="none"))
        with noting_decisions(gated) as decided:
            gated(images)
        macs.append(costs.expected(torch.stack(decided, dim=1).unflatten(1, (-1, 2)).float()))
    return float(spearmanr(torch.cat(macs).numpy(), torch.cat(losses).numpy()).statistic)


PARTS = {"dynamic": Part(phases, table)}
