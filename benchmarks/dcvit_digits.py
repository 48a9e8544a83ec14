"""DC-ViT against PRACTISE at equal images and steps, its ablations, and what its scores are worth, on small images."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from study import REPOSITORY, Run, execute, markdown, mean_and_spread, slug, study_arguments, write_section

from lightning_vitc import costs
from lightning_vitc.config import load_experiment
from lightning_vitc.few_shot.latency import latencies
from lightning_vitc.methods.dcvit import Stages
from lightning_vitc.pipeline.evaluation import evaluate
from lightning_vitc.pipeline.finished import networks_of_run
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.train import hush
from lightning_vitc.pipeline.trainers import test_trainer
from lightning_vitc.runs.directory import RunDirectory

DOCUMENT = REPOSITORY / "docs" / "results" / "dcvit.md"
IMAGES, BLOCKS, STEPS = (50, 200), (1, 2, 3), 120
PAPER_ITERATIONS, PAPER_EPOCHS = 2000, 2000  # of the synthetic images, and of a fine-tuning
TIMED = 2  # blocks less, of the runs whose times are shown
ABLATED = (50, 2)  # images and blocks of the ablations
MODEL = ("model.name=vit_tiny_patch16_224", "model.depth=8", "model.embed_dim=64", "model.num_heads=4")
ABLATIONS = {
    "one-shot instead of progressive": ("method.finetune=one_shot", True),
    "the whole network trained": ("method.trained=whole", False),
    "one more block, each compressed less": ("method.extra_blocks=1", False),
    "MLP weights drawn anew": ("method.init=reinit", False),
    "hidden units by mean activation": ("method.units=activation", False),
    "class token alone": ("method.matched=class", False),
    "score by MSE": ("method.score=mse", True),
    "score on the training images": ("method.score_on=training", True),
    "least-squares start (ours)": ("method.init=least_squares", False),
}
"""Title: the override, and whether the trials are those of DC-ViT itself."""


@dataclass(frozen=True)
class Study:
    """The runs of one task."""

    task: str
    folder: Path
    seeds: list[int]
    images: tuple[int, ...] = IMAGES
    blocks: tuple[int, ...] = BLOCKS

    def dense(self, seed: int) -> Run:
        """The original of all other runs of the seed."""
        epochs = () if self.task == "glyphs" else ("trainer.max_epochs=30",)
        return Run("dcvit-dense", f"dense_{self.task}", seed, (*MODEL, *epochs))

    def run(self, method: str, seed: int, images: int, blocks: int, name: str = "", *keys: str) -> Run:
        """As many steps whatever the number of images, at up to 50 images a step."""
        setting = (
            f"teacher.run={self.dense(seed).directory(self.folder)}", f"data.num_samples={images}",
            f"budget.drop_blocks={blocks}", f"trainer.max_epochs={STEPS * 50 // images}",
            f"optimizer.warmup_epochs={10 * 50 / images}",
        )  # fmt: skip
        return Run(f"{name or method}-{images}-{blocks}", f"{method}_{self.task}", seed, (*setting, *keys))

    def dcvit(self, images: int, blocks: int) -> list[Run]:
        """A run a seed."""
        return [self.run("dcvit", seed, images, blocks) for seed in self.seeds]

    def practise(self, images: int, blocks: int) -> list[Run]:
        """The trials do not depend on how many blocks go."""
        first = [self.run("practise", seed, images, self.blocks[0]) for seed in self.seeds]
        if blocks == self.blocks[0]:
            return first
        return [
            self.run("practise", seed, images, blocks, "", f"method.trials_of={one.directory(self.folder)}")
            for seed, one in zip(self.seeds, first, strict=True)
        ]

    def ablation(self, title: str) -> list[Run]:
        """A run a seed, on the trials of DC-ViT where they are the same."""
        key, shares_trials = ABLATIONS[title]
        name, runs = slug(title), []
        for seed, plain in zip(self.seeds, self.dcvit(*ABLATED), strict=True):
            shared = (f"method.trials_of={plain.directory(self.folder)}",) if shares_trials else ()
            runs.append(self.run("dcvit", seed, *ABLATED, name, key, *shared))
        return runs

    def phases(self, ablations: bool) -> Iterable[list[Run]]:
        """Later ones read what earlier ones made."""
        settings = list(product(self.images, self.blocks))
        yield [self.dense(seed) for seed in self.seeds]
        yield [run for setting in settings for run in self.dcvit(*setting)]
        yield [run for images in self.images for run in self.practise(images, self.blocks[0])]
        yield [run for setting in settings for run in self.practise(*setting)]
        if ablations:
            yield [run for title in ABLATIONS for run in self.ablation(title)]


def top1(runs: list[Run], folder: Path) -> str:
    """Mean and spread of the compressed network over the seeds."""
    return mean_and_spread([run.result(folder)["rows"][0]["top1"] for run in runs])


def accuracy_table(study: Study) -> str:
    """DC-ViT and PRACTISE by images and budget."""
    dense = [run.result(study.folder)["rows"][0]["top1"] for run in map(study.dense, study.seeds)]
    header = ["top-1 % (test)", *(f"{n} block{'s' * (n > 1)} less" for n in study.blocks)]
    rows = [["dense", *[mean_and_spread(dense)] * len(study.blocks)]]
    for images, (title, runs_of) in product(study.images, (("DC-ViT", study.dcvit), ("PRACTISE", study.practise))):
        cells = [top1(runs_of(images, blocks), study.folder) for blocks in study.blocks]
        rows.append([f"{title}, {images} images", *cells])
    return markdown(header, rows)


def ablation_table(study: Study) -> str:
    """Each change to DC-ViT alone."""
    rows = [["DC-ViT", top1(study.dcvit(*ABLATED), study.folder)]]
    rows += [[title, top1(study.ablation(title), study.folder)] for title in ABLATIONS]
    return markdown(["top-1 % (test), 50 images, 2 blocks less", ""], rows)


def candidate_errors(run: Run, folder: Path) -> dict[str, float]:
    """Test error in percent of every fine-tuned candidate of a run; kept beside the studies' logs."""
    file = folder / "candidates" / run.experiment / f"{run.name}-{run.seed}.json"
    if not file.exists():
        directory = run.directory(folder)
        experiment = load_experiment(str(directory / "config.yaml"), check_files=False)
        pipeline = Pipeline(experiment, RunDirectory(directory), read_only=True)
        networks = {str(block): network for block, network in Stages.of(pipeline).trials().items()}
        accuracy = evaluate(test_trainer(experiment), networks, pipeline.data.num_classes, pipeline.data).accuracy
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({block: 100 - values["top1"] for block, values in accuracy.items()}))
    return json.loads(file.read_text())


def correlation_table(study: Study) -> str:
    """Spearman's rank correlation with the candidates' test error, a value a run."""
    rows = []
    for images, blocks in product(study.images, study.blocks):
        found: dict[str, list[float]] = {"scores": [], "training_losses": []}
        for run in study.dcvit(images, blocks):
            errors = candidate_errors(run, study.folder)
            ranked = json.loads((run.directory(study.folder) / "blocks.json").read_text())
            for kind, values in found.items():
                values.append(spearmanr([ranked[kind][block] for block in errors], list(errors.values())).statistic)
        rows.append([f"{images} images, {blocks} less", *map(mean_and_spread, found.values())])
    return markdown(["Spearman with the test error", "score", "training loss"], rows)


def time_table(study: Study) -> str:
    """What the synthetic set costs beside one fine-tuning, here and at the paper's counts."""
    rows = []
    for images in study.images:
        measured = [times(run.directory(study.folder)) for run in study.dcvit(images, TIMED)]
        shares = [100 * one.made / one.tuned for one in measured]
        of_paper = [100 * PAPER_ITERATIONS * one.iteration / (PAPER_EPOCHS * one.steps_an_epoch * one.step)
                    for one in measured]  # fmt: skip
        seconds = ([one.made for one in measured], [one.tuned for one in measured])
        milliseconds = ([1000 * one.iteration for one in measured], [1000 * one.step for one in measured])
        rows.append([f"{images} images", *map(mean_and_spread, (*seconds, shares, *milliseconds, of_paper))])
    header = ["", "synthetic set, s", "one fine-tuning, s", "share %", "ms an iteration", "ms a step",
              f"derived: share % of {PAPER_ITERATIONS} iterations in {PAPER_EPOCHS} epochs"]  # fmt: skip
    return markdown(header, rows)


@dataclass(frozen=True)
class Times:
    """Seconds of a run: of all its synthetic images, of one fine-tuning, of an iteration and of a step of them."""

    made: float
    tuned: float
    iteration: float
    step: float
    steps_an_epoch: float


def times(directory: Path) -> Times:
    """From what the run recorded."""
    made = json.loads((directory / "synthetic.json").read_text())["seconds"]
    tuned = json.loads((directory / "checkpoints" / "progressive_2" / "done.json").read_text())
    recipe = load_experiment(str(directory / "config.yaml"), check_files=False).method.synthetic
    iterations = recipe.iterations * -(-recipe.count // recipe.batch)
    return Times(made, tuned["seconds"], made / iterations, tuned["seconds"] / tuned["steps"],
                 tuned["steps"] / tuned["epochs"])  # fmt: skip


def latency_table(study: Study, batch: int = 64) -> str:
    """Of the first seed's networks in one process, in turns."""
    torch.set_num_threads(1)
    networks, specs = {}, {}
    for blocks in study.blocks:
        for title, runs in (("DC-ViT", study.dcvit(50, blocks)), ("whole blocks", study.practise(50, blocks))):
            _, made = networks_of_run(runs[0].directory(study.folder))
            networks[title, blocks], specs[title, blocks] = made[-1].module, made[-1].spec
    networks["dense", 0], specs["dense", 0] = made[0].module, made[0].spec
    spec = specs["dense", 0]
    times: dict[Any, float] = latencies(networks, torch.randn(batch, spec.in_chans, *spec.img_size), repeats=40)
    rows = []
    for (title, blocks), milliseconds in sorted(times.items(), key=lambda item: (item[0][1], item[0][0])):
        one = specs[title, blocks]
        counts = [f"{costs.macs(one, convention, 'dcvit') / 1e6:.3f} M" for convention in ("paper", "full")]
        name = title if not blocks else f"{title}, {blocks} less"
        rows.append([name, *counts, f"{milliseconds:.2f}", f"{times['dense', 0] / milliseconds:.3f}"])
    header = [f"batch of {batch}", "MACs (paper)", "MACs (full)", "latency ms", "speed-up"]
    return markdown(header, rows)


def write(study: Study, ablations: bool) -> None:
    """All tables of a task into the document."""
    results = [run.result(study.folder) for phase in study.phases(ablations) for run in phase]
    parts = [f"Seeds {study.seeds}, mean ± standard deviation, {STEPS} steps a fine-tuning.", accuracy_table(study)]
    if ablations:
        parts.append(ablation_table(study))
    parts += [correlation_table(study), time_table(study), latency_table(study)]
    write_section(DOCUMENT, study.task, "\n\n".join(parts), results)


def main() -> None:
    """Train what is missing, then write."""
    parser = study_arguments(__doc__)
    parser.set_defaults(seeds=[0, 1, 2, 3, 4])
    parser.add_argument("--all-glyphs", action="store_true", help="glyphs with all images and budgets, as digits")
    args = parser.parse_args()
    hush()
    glyphs = {} if args.all_glyphs else {"images": (50,), "blocks": (2,)}
    studies = {
        "digits": Study("digits", args.runs, args.seeds),
        "glyphs": Study("glyphs", args.runs, args.seeds, **glyphs),
    }
    for task, study in studies.items():
        if not args.table_only:
            for phase in study.phases(ablations=task == "digits"):
                execute(phase, args.runs, args.jobs)
        write(study, ablations=task == "digits")


if __name__ == "__main__":
    main()
