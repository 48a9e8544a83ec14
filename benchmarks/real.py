"""The methods on photographs, from a pretrained network that was fine-tuned on them; and Scala on CIFAR-10.

    python benchmarks/real.py --caltech DIR --cifar DIR --weights FILE --dry
    python benchmarks/real.py --caltech DIR --cifar DIR --weights FILE --sections few-images --seeds 0

It goes on where it was stopped. `--dry` says what would run and how long it takes on this machine, by its pace now.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from on_photographs import dynamic, few_images, pruning, redundancy, widths
from on_photographs.setting import Part, Planned, Setting, minutes, pace
from study import REPOSITORY, execute, study_arguments, write_section

from lightning_vitc.pipeline.train import hush

DOCUMENT = REPOSITORY / "docs" / "results" / "real.md"
SECTIONS: dict[str, Part] = {
    **redundancy.PARTS, **few_images.PARTS, **pruning.PARTS, **dynamic.PARTS, **widths.PARTS,
}  # fmt: skip
READ = {
    "caltech": "Caltech-101 without its background class (5,784 training and 2,893 test photographs, short side 112 "
    "px, seen at 84 px) and a pretrained ViT-S/14, the file {weights}",
    "cifar10": "a JPEG copy of CIFAR-10, 32 px",
}


def main() -> None:
    """Train what is missing, then write; or say what is missing."""
    args = _arguments()
    setting = Setting(args.runs, args.seeds, args.caltech.absolute(), args.cifar.absolute(), args.weights.absolute(),
                      args.images, args.blocks, args.budgets, tuple(args.set))  # fmt: skip
    hush()
    if args.dry:
        print("\n".join(plan(setting, args.sections, args.jobs)))
        return
    for name in args.sections:
        part = SECTIONS[name]
        for phase in [] if args.table_only else phases_of(setting, name):
            for planned in phase if part.prepare else ():
                part.prepare(setting, planned)  # type: ignore[misc]
            execute([planned.run for planned in phase], setting.folder, args.jobs)
        results = [planned.run.result(setting.folder) for phase in phases_of(setting, name) for planned in phase]
        body = f"{said(setting, name)}\n\n{part.body(setting)}"
        if setting.more:  # a trial is no result
            print(body)
        else:
            write_section(DOCUMENT, name, body, results)


def _arguments() -> argparse.Namespace:
    parser = study_arguments(__doc__.splitlines()[0] if __doc__ else "")
    for name, what in (("caltech", "of Caltech-101"), ("cifar", "of CIFAR-10"), ("weights", "a pretrained ViT-S/14")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"{what}: a folder, or a file of weights")
    parser.add_argument("--sections", choices=list(SECTIONS), nargs="+", default=list(SECTIONS), help="default: all")
    parser.add_argument("--images", type=int, nargs="+", default=Setting.images, help="unlabeled photographs")
    parser.add_argument("--blocks", type=int, nargs="+", default=Setting.blocks, help="less, whose MACs are left")
    parser.add_argument("--budgets", type=int, nargs="+", default=Setting.budgets, help="percent of the MACs")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="of every run, to try the study itself"
    )
    parser.add_argument("--dry", action="store_true", help="say what would run, and how long it takes here")
    parser.set_defaults(seeds=[0, 1])
    return parser.parse_args()


def phases_of(setting: Setting, section: str) -> list[list[Planned]]:
    """With the original of all that is compressed first."""
    own = SECTIONS[section].phases(setting)
    return own if section == "widths" else [[setting.original], *own]


def said(setting: Setting, section: str) -> str:
    """What was read, and by how many seeds."""
    read = READ["cifar10" if section == "widths" else "caltech"].format(weights=f"`{setting.weights.name}`")
    seeds = f"seeds {[*setting.seeds]}" if len(setting.seeds) > 1 else f"one seed ({setting.seeds[0]})"
    return f"Read: {read}; {seeds}."


def plan(setting: Setting, sections: list[str], jobs: int) -> Iterator[str]:
    """Every run that is missing, with minutes on a core; and the hours of each section."""
    paces = {"caltech": pace("dense_caltech"), "cifar10": pace("separate_cifar10")}
    for name, (forward, trained) in paces.items():
        yield f"{name}: {1000 * forward:.1f} ms an image forward, {1000 * trained:.1f} ms with backward, one thread"
    counted: set[Path] = set()
    for section in sections:
        total = 0.0
        for planned in (planned for phase in phases_of(setting, section) for planned in phase):
            directory = planned.run.directory(setting.folder)
            if directory not in counted and not (directory / "result.json").exists():
                counted.add(directory)
                total += (took := minutes(planned, paces))
                yield f"  {planned.run.experiment} {directory.name}: {took:.0f} min"
        yield f"{section}: {total / 60:.1f} process hours, {total / 60 / jobs:.1f} with {jobs} at a time"


if __name__ == "__main__":
    main()
