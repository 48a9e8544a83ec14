"""DC-ViT against PRACTISE from few photographs at equal steps, and what either is worth before its first step."""

import json
from dataclasses import replace
from typing import Any

from study import Run, markdown, slug

from lightning_vitc.few_shot.scores import score
from lightning_vitc.methods.dcvit import Stages
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.pipeline.finished import networks_of_run
from on_photographs.setting import Part, Phases, Planned, Setting, cell, evaluated, kept, of_finished

STEPS, BATCH = 32, 16
CANDIDATES, SHARED = 10, 4  # tried blocks, and how many share the original's pass
ABLATED = (50, 3)
SEEN = 200  # test photographs of a feature error
LOOKS = {"augmented": (), "as they are": ("data.no_aug=true",)}  # the second of the fewest photographs alone
METHODS = {"DC-ViT": "dcvit", "PRACTISE": "practise"}
UNTRAINED = ("whole blocks just dropped", "attentions just dropped", "least squares, no step")
CAUSES: dict[str, tuple[str, ...]] = {
    "four times the steps": (f"trainer.max_epochs={4 * STEPS // -(-ABLATED[0] // BATCH)}",),
    "a third of the rate": ("optimizer.lr=3.0e-5",),
    "three times the rate": ("optimizer.lr=3.0e-4",),
}
OF_DCVIT: dict[str, tuple[str, ...]] = {
    "one more block, each compressed less": ("method.extra_blocks=1",),
    "MLP weights drawn anew": ("method.init=reinit",),
    "least-squares start": ("method.init=least_squares",),
    "class token alone": ("method.matched=class",),
    "the whole network trained": ("method.trained=whole",),
}
Made = dict[str, dict[str, float]]


def run_of(setting: Setting, method: str, seed: int, images: int, blocks: int, look: str, name: str = "",
           *keys: str) -> Run:  # fmt: skip
    """As many steps whatever the number of images."""
    an_epoch = -(-images // BATCH)
    epochs = (f"data.num_samples={images}", f"trainer.max_epochs={STEPS // an_epoch}",
              f"optimizer.warmup_epochs={4 / an_epoch:g}", f"budget.drop_blocks={blocks}")  # fmt: skip
    title = "-".join(filter(None, (method, slug(name), str(images), str(blocks), slug(look))))
    chosen = dict(key.split("=", 1) for key in (*epochs, *LOOKS[look], *keys))  # a cause may be another number of steps
    return setting.of_original(title, f"{method}_caltech", seed, *(f"{key}={value}" for key, value in chosen.items()))


def work(run: Run, steps: int = STEPS) -> Planned:
    """Trials of all candidates, then as many fine-tunings as about one and a third blocks more than are dropped."""
    keys = dict(key.split("=", 1) for key in run.overrides)
    stages = CANDIDATES + 4 * int(keys["budget.drop_blocks"]) / 3
    images = int(keys["data.num_samples"])
    return Planned(run, stages / SHARED * steps * BATCH + (CANDIDATES + 1) * images, stages * steps * BATCH)


def compared(setting: Setting) -> Phases:
    """PRACTISE's trials do not depend on the budget: those of the first one serve all."""
    grid = [
        (seed, images, look) for seed in setting.seeds for images in setting.images for look in looks(setting, images)
    ]
    first, rest = [], []
    for seed, images, look in grid:
        for blocks in setting.blocks:
            first.append(work(run_of(setting, "dcvit", seed, images, blocks, look)))
        one = run_of(setting, "practise", seed, images, setting.blocks[0], look)
        first.append(work(one))
        rest += [work(_with_trials_of(setting, one, seed, images, blocks, look)) for blocks in setting.blocks[1:]]
    return [first, rest]


def looks(setting: Setting, images: int) -> list[str]:
    """Augmentation matters where photographs are few."""
    return [*LOOKS] if images == min(setting.images) else ["augmented"]


def _with_trials_of(setting: Setting, one: Run, seed: int, images: int, blocks: int, look: str) -> Run:
    trials = f"method.trials_of={one.directory(setting.folder)}"
    return run_of(setting, "practise", seed, images, blocks, look, "", trials)


def table(setting: Setting) -> str:
    """Accuracy by budget; below it the feature errors on the few images and on others."""
    rows, errors = [], []
    for images in setting.images:
        for title in UNTRAINED:
            cells = [cell([untrained(setting, seed, images, blocks)[title]["top1"] for seed in setting.seeds])
                     for blocks in setting.blocks]  # fmt: skip
            rows.append([f"{title}, {images} photographs", *cells])
        for look in looks(setting, images):
            for title, method in METHODS.items():
                runs = [[run_of(setting, method, seed, images, blocks, look) for seed in setting.seeds]
                        for blocks in setting.blocks]  # fmt: skip
                cells = [cell([run.result(setting.folder)["rows"][0]["top1"] for run in same]) for same in runs]
                rows.append([f"{title}, {images} photographs, {look}", *cells])
                seen = [[feature_errors(setting, run) for run in same] for same in runs]
                errors.append([f"{title}, {images}, {look}", *(
                    " / ".join(f"{sum(one[key] for one in same) / len(same):.4f}" for key in ("few", "test"))
                    for same in seen
                )])  # fmt: skip
    header = [f"MACs without {blocks} block{'s' * (blocks > 1)}" for blocks in setting.blocks]
    return "\n\n".join([
        f"{STEPS} steps of {BATCH} photographs a fine-tuning; the original has {_original(setting):.2f} %.",
        markdown(["top-1 % (test)", *header], rows),
        "Mean squared difference of tokens from the original's, on the photographs that were seen / on "
        f"{SEEN} of the test split:", markdown(["", *header], errors),
    ])  # fmt: skip


def _original(setting: Setting) -> float:
    return setting.original.run.result(setting.folder)["rows"][0]["top1"]


def untrained(setting: Setting, seed: int, images: int, blocks: int) -> Made:
    """The accuracy of what DC-ViT and PRACTISE choose, before any step."""
    run = run_of(setting, "dcvit", seed, images, blocks, "augmented")
    return kept(setting, "untrained", run, lambda: _untrained(setting, run, seed, images, blocks))


def _untrained(setting: Setting, run: Run, seed: int, images: int, blocks: int) -> Made:
    pipeline = of_finished(setting, run)
    stages, chosen = Stages.of(pipeline), json.loads((pipeline.directory.path / "blocks.json").read_text())["order"]
    other = run_of(setting, "practise", seed, images, blocks, "augmented").result(setting.folder)["rows"][0]["blocks"]
    networks = {UNTRAINED[0]: compact_backbone(stages.dense, without_blocks(stages.dense, tuple(other)))}
    for title, init in zip(UNTRAINED[1:], ("reuse", "least_squares"), strict=True):
        compression: Any = replace(stages.compression, keys=replace(pipeline.arguments, init=init), units={})  # type: ignore[type-var]
        network, done = stages.dense, []
        for block in compression.chosen(chosen):
            network = compression.compress(network, done, block)
            done.append(block)
        networks[title] = network
    return evaluated(pipeline, networks)


def feature_errors(setting: Setting, run: Run) -> dict[str, float]:
    """Of a finished run's network, on the images that it has seen and on others."""
    return kept(setting, "feature-errors", run, lambda: _feature_errors(setting, run))


def _feature_errors(setting: Setting, run: Run) -> dict[str, float]:
    pipeline, networks = networks_of_run(run.directory(setting.folder))
    original, small = pipeline.dense(), networks[-1].module
    look: dict[str, Any] = {"few": pipeline.data.images_of("train"), "test": pipeline.data.spread_images("test", SEEN)}
    return {key: score(original, small, images, "mse") for key, images in look.items()}  # type: ignore[arg-type]


def causes(setting: Setting) -> Phases:
    """Both methods at other steps and rates, and changes to DC-ViT alone."""
    runs = []
    for seed in setting.seeds:
        both = [(method, title, keys) for method in METHODS.values() for title, keys in CAUSES.items()]
        for method, title, keys in [*both, *(("dcvit", title, keys) for title, keys in OF_DCVIT.items())]:
            steps = 4 * STEPS if title.startswith("four") else STEPS
            runs.append(work(run_of(setting, method, seed, *ABLATED, "augmented", title, *keys), steps))
    plain = [work(run_of(setting, method, seed, *ABLATED, "augmented"))
             for method in METHODS.values() for seed in setting.seeds]  # fmt: skip
    return [plain, runs]


def causes_table(setting: Setting) -> str:
    """Each change alone, at one number of photographs and one budget."""
    rows = []
    for title, keys in {"as above": (), **CAUSES, **OF_DCVIT}.items():
        name = title if keys else ""
        methods = METHODS.values() if title not in OF_DCVIT else ("dcvit",)
        found = [[run_of(setting, method, seed, *ABLATED, "augmented", name, *keys) for seed in setting.seeds]
                 for method in methods]  # fmt: skip
        cells = [cell([run.result(setting.folder)["rows"][0]["top1"] for run in same]) for same in found]
        rows.append([title, *cells, *[""] * (len(METHODS) - len(cells))])
    images, blocks = ABLATED
    return markdown([f"top-1 % (test), {images} photographs, {blocks} blocks less", *METHODS], rows)


PARTS = {"few-images": Part(compared, table), "causes": Part(causes, causes_table)}
