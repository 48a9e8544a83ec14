"""Networks compressed on digits, fine-tuned on glyphs: what the runs of `dcvit_digits.py` are worth elsewhere."""

from dcvit_digits import ABLATED, DOCUMENT, Study
from study import Run, execute, markdown, mean_and_spread, study_arguments, write_section


def transfers(study: Study) -> dict[str, list[Run]]:
    """A run a seed from the dense network of digits, and from what the two methods made of it."""
    sources = {
        "dense": [study.dense(seed) for seed in study.seeds],
        "DC-ViT": study.dcvit(*ABLATED),
        "PRACTISE": study.practise(*ABLATED),
    }
    return {
        title: [
            Run(f"transfer-{title.lower()}", "dcvit_transfer_glyphs", run.seed,
                (f"model.name={run.directory(study.folder)}",))
            for run in runs
        ]
        for title, runs in sources.items()
    }  # fmt: skip


def main() -> None:
    """Train what is missing, then write."""
    args = study_arguments(__doc__).parse_args()
    study = Study("digits", args.runs, args.seeds)
    found = transfers(study)
    if not args.table_only:
        execute([run for runs in found.values() for run in runs], args.runs, args.jobs)
    results = {title: [run.result(args.runs) for run in runs] for title, runs in found.items()}
    images, blocks = ABLATED
    body = markdown(
        [f"compressed on digits, {images} images, {blocks} blocks less", "MACs on glyphs", "top-1 % (test of glyphs)"],
        [[title, f"{documents[0]['rows'][0]['macs'] / 1e6:.2f} M",
          mean_and_spread([document["rows"][0]["top1"] for document in documents])]
         for title, documents in results.items()],
    )  # fmt: skip
    write_section(DOCUMENT, "transfer", f"Seeds {args.seeds}, mean ± standard deviation.\n\n{body}",
                  [document for documents in results.values() for document in documents])  # fmt: skip


if __name__ == "__main__":
    main()
