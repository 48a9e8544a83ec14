"""Scala against US-Net and separately trained widths, and its four ablations, on digits at equal epochs."""

from study import REPOSITORY, Run, arguments, execute, markdown, mean_and_spread, slug, write_section

WIDTHS = (0.25, 0.5, 0.75, 1.0)
METHODS = {
    "Scala": ("scala_digits", ()),
    "US-Net": ("usnet_digits", ()),
    "US-Net without distillation token": ("usnet_digits", ("model.name=deit_tiny_patch16_224",)),
    "Scala without isolated activation": ("scala_digits", ("method.isolated_activation=false",)),
    "Scala without progressive transfer": ("scala_digits", ("method.transfer=full",)),
    "Scala without stable sampling": ("scala_digits", ("method.sampling=uniform",)),
    "Scala without noise calibration": ("scala_digits", ("method.noise_calibration=false",)),
}
DOCUMENT = REPOSITORY / "docs" / "results" / "scala.md"


def main() -> None:
    """Train what is missing, then write."""
    args = arguments(__doc__)
    separate = [Run("separate", "separate_digits", seed) for seed in args.seeds]
    dense = {run.seed: run.directory(args.runs) for run in separate}  # full width: everybody's teacher
    shared = {
        title: [
            Run(slug(title), experiment, seed, (*overrides, "teacher.train=false", f"teacher.run={dense[seed]}"))
            for seed in args.seeds
        ]
        for title, (experiment, overrides) in METHODS.items()
    }
    if not args.table_only:
        execute(separate, args.runs, args.jobs)
        execute([run for runs in shared.values() for run in runs], args.runs, args.jobs)
    table = []
    for title, runs in {"separate training": separate, **shared}.items():
        cells = [mean_and_spread([run.top1(args.runs, width) for run in runs]) for width in WIDTHS]
        table.append([title, *cells])
    results = [run.result(args.runs) for runs in [separate, *shared.values()] for run in runs]
    body = markdown(["top-1 % (test)", *(f"r = {width:g}" for width in WIDTHS)], table)
    write_section(DOCUMENT, "digits", f"Seeds {args.seeds}, mean ± standard deviation.\n\n{body}", results)


if __name__ == "__main__":
    main()
