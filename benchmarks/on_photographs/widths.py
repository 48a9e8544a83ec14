"""Scala against US-Net and separate training on CIFAR-10 from scratch, at widths that are trained and that are not."""

from study import Run, markdown, slug

from on_photographs.setting import TRAIN, Part, Phases, Planned, Setting, cell

WIDTHS, UNTRAINED = (0.25, 0.5, 0.75, 1.0), (0.375, 0.625, 0.875)
EPOCHS = 5
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Scala": ("scala_cifar10", ()),
    "Scala without isolated activation": ("scala_cifar10", ("method.isolated_activation=false",)),
    "US-Net": ("usnet_cifar10", ()),
}
PASSES = 2.4  # images of full width that a step of four widths comes to, an image


def separate(setting: Setting, seed: int) -> Run:
    """Four networks, of which the widest teaches the others' widths."""
    keys = (f"data.root={setting.cifar}", f"trainer.max_epochs={EPOCHS}", *setting.more)
    return Run("separate", "separate_cifar10", seed, keys)


def run_of(setting: Setting, title: str, seed: int) -> Run:
    """One network of all widths."""
    experiment, keys = ROWS[title]
    teacher = f"teacher.run={separate(setting, seed).directory(setting.folder)}"
    place = (f"data.root={setting.cifar}", f"trainer.max_epochs={EPOCHS}", f"method.untrained_widths={[*UNTRAINED]}")
    return Run(slug(title), experiment, seed, (*place, teacher, *keys, *setting.more))


def phases(setting: Setting) -> Phases:
    """Those that are taught wait for the teacher."""
    images = EPOCHS * TRAIN["cifar10"]
    alone = [Planned(separate(setting, seed), 0, images * sum(width**2 for width in WIDTHS)) for seed in setting.seeds]
    runs = [Planned(run_of(setting, title, seed), images, PASSES * images) for title in ROWS for seed in setting.seeds]
    return [alone, runs]


def table(setting: Setting) -> str:
    """Accuracy by width."""
    rows = [["separate training", *(
        cell([separate(setting, seed).top1(setting.folder, width) for seed in setting.seeds]) for width in WIDTHS
    ), *[""] * len(UNTRAINED)]]  # fmt: skip
    for title in ROWS:
        runs = [run_of(setting, title, seed) for seed in setting.seeds]
        rows.append(
            [title, *(cell([run.top1(setting.folder, width) for run in runs]) for width in (*WIDTHS, *UNTRAINED))]
        )
    header = [*(f"r = {width:g}" for width in WIDTHS), *(f"{width:g}, not trained" for width in UNTRAINED)]
    return f"{EPOCHS} epochs each.\n\n{markdown(['top-1 % (test)', *header], rows)}"


PARTS = {"widths": Part(phases, table)}
