"""Do ViTs interpolate? Trained at .25/.5/.75/1, tested between, for the four slice rules on two tasks."""

from study import REPOSITORY, Run, arguments, execute, markdown, mean_and_spread, write_section

TASKS = {"digits": (), "glyphs": ("trainer.max_epochs=12",)}
RULES = ("official", "per_qkv", "per_head", "heads")
TRAINED, UNSEEN = (0.25, 0.5, 0.75, 1.0), (0.375, 0.625, 0.875)
SETTINGS = (
    "method.granularity=0.25", "method.isolated_activation=false", f"method.untrained_widths={list(UNSEEN)}",
    "teacher.train=false", "model.name=deit_tiny_patch16_224", "model.num_heads=8",
    "model.embed_dim=64",
)  # fmt: skip
DOCUMENT = REPOSITORY / "docs" / "results" / "scala.md"


def main() -> None:
    """Train what is missing, then write."""
    args = arguments(__doc__)
    runs = {
        (task, rule): [
            Run(f"slice-{rule}", f"scala_{task}", seed, (*SETTINGS, *size, f"method.slice={rule}"))
            for seed in args.seeds
        ]
        for task, size in TASKS.items()
        for rule in RULES
    }
    if not args.table_only:
        execute([run for group in runs.values() for run in group], args.runs, args.jobs)
    widths = sorted({*TRAINED, *UNSEEN})
    table = [
        [f"{task}, `{rule}`", *(mean_and_spread([run.top1(args.runs, width) for run in group]) for width in widths)]
        for (task, rule), group in runs.items()
    ]
    header = ["top-1 % (test)", *(f"{width:g}" if width in TRAINED else f"**{width:g}**" for width in widths)]
    body = f"Seeds {args.seeds}, mean ± standard deviation; widths in bold were never trained.\n\n"
    results = [run.result(args.runs) for group in runs.values() for run in group]
    write_section(DOCUMENT, "slice-rules", body + markdown(header, table), results)


if __name__ == "__main__":
    main()
