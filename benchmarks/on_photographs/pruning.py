"""UVC against magnitude and random pruning of the same network at equal epochs, and what of it gives what."""

import shutil
from dataclasses import dataclass

from study import Run, markdown, slug

from lightning_vitc.config import load_experiment
from lightning_vitc.runs.directory import RunDirectory
from on_photographs.setting import HALF, TRAIN, Part, Phases, Planned, Setting, cell

SEARCH, AFTER = 1, 2  # half epochs of the search and of training what is left; one-shot pruning has both
SCALE = 0.6  # of the cost of what is left, of the dense network's, on average over the budgets
DECISION = "architecture.json"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    title: str
    experiment: str
    overrides: tuple[str, ...] = ()


UVC, ALLOCATED = Row("UVC", "uvc_caltech"), Row("UVC's masks cut at once", "magnitude_caltech")
ROWS = (
    UVC,
    Row("UVC prune only", "uvc_caltech", ("method.skip=none",)),
    Row("UVC, duals held at zero", "uvc_caltech", ("method.dual_lr=1.0e-12", "method.price_lr=1.0e-12")),
    Row("magnitude", "magnitude_caltech"),
    Row("random", "magnitude_caltech", ("method.criterion=random",)),
    ALLOCATED,
)


def run_of(setting: Setting, row: Row, budget: int, seed: int) -> Run:
    """At a budget, in percent of the MACs."""
    searches = row.experiment.startswith("uvc")
    epochs = ((f"trainer.max_epochs={SEARCH}", f"method.finetune_epochs={AFTER}") if searches
              else (f"method.finetune_epochs={SEARCH + AFTER}",))  # fmt: skip
    name = f"{slug(row.title).replace(chr(39), '')}-{budget}"
    return setting.of_original(name, row.experiment, seed, HALF, *epochs, f"budget.macs={budget}%", *row.overrides)


def phases(setting: Setting) -> Phases:
    """What is cut by UVC's masks waits for them."""
    made = {row: [_planned(run_of(setting, row, budget, seed)) for budget in setting.budgets for seed in setting.seeds]
            for row in ROWS}  # fmt: skip
    return [[planned for row in ROWS if row != ALLOCATED for planned in made[row]], made[ALLOCATED]]


def _planned(run: Run) -> Planned:
    """The teacher sees every image too."""
    searches = run.experiment.startswith("uvc")
    small = (AFTER if searches else SEARCH + AFTER) * SCALE
    epochs = SEARCH * searches + small
    return Planned(run, (SEARCH + AFTER) * TRAIN["caltech"] / 2, epochs * TRAIN["caltech"] / 2)


def prepare(setting: Setting, planned: Planned) -> None:
    """Of a run that is cut by UVC's masks: its decision is theirs, and with it all that follows."""
    run = planned.run
    titles = {run_of(setting, ALLOCATED, budget, seed): (budget, seed)
              for budget in setting.budgets for seed in setting.seeds}  # fmt: skip
    if run not in titles:
        return
    directory = run.directory(setting.folder)
    if not (directory / DECISION).exists():
        keys = (f"seed={run.seed}", f"output_dir={setting.folder}", f"run_name={run.name}-{run.seed}")
        opened = RunDirectory(directory)
        opened.open(load_experiment(run.experiment, [*run.overrides, *keys]))
        shutil.copy(run_of(setting, UVC, *titles[run]).directory(setting.folder) / DECISION, directory)
        opened.close()


def table(setting: Setting) -> str:
    """Accuracy by budget; below it what was achieved."""
    accuracy, shares = [], []
    for row in ROWS:
        cells = []
        for budget in setting.budgets:
            found = [run_of(setting, row, budget, seed).result(setting.folder) for seed in setting.seeds]
            cells.append(cell([result["rows"][0]["top1"] for result in found]))
            macs = [100 * result["rows"][0]["macs"] / result["dense"]["macs"] for result in found]
            left = ", ".join(str(result["rows"][0].get("blocks", "")) for result in found)
            shares.append([row.title, f"{budget} %", f"{min(macs):.2f} to {max(macs):.2f} %", left])
        accuracy.append([row.title, *cells])
    header = ["top-1 % (test)", *(f"{budget} % of MACs" for budget in setting.budgets)]
    return (
        f"{SEARCH} half epoch of search and {AFTER} of what is left, or {SEARCH + AFTER} of what is left at once.\n\n"
        f"{markdown(header, accuracy)}\n\n{markdown(['', 'budget', 'achieved, of dense', 'blocks left'], shares)}"
    )


PARTS = {"pruning": Part(phases, table, prepare)}
