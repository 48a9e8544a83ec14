"""Runs of every method, killed in every phase and stopped by signals, against runs that nothing happened to."""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from hunt import Hunt
from kills import Case, Hit, plans
from same_run import differences
from study import REPOSITORY, markdown, write_section

DOCUMENT = REPOSITORY / "docs" / "results" / "reliability.md"
SMALL = (
    "model.depth=3", "model.embed_dim=24", "model.num_heads=2", "model.patch_size=4", "trainer.log_every_n_steps=1",
    "optimizer.warmup_epochs=0.5", "model.drop_path_rate=0.1",
)  # fmt: skip
IMAGES = ("data.num_samples=128", "data.batch_size=16", "trainer.max_epochs=3")
TAUGHT = ("teacher.epochs=2",)
FEW = (
    *SMALL, "model.depth=5", "teacher.epochs=2", "teacher.batch_size=64", "data.num_samples=24", "data.batch_size=10",
    "trainer.max_epochs=6", "method.trials_at_once=2", "callbacks.checkpoint.every_n_epochs=2",
)  # fmt: skip
DCVIT = (*FEW, "method.synthetic.iterations=20", "method.synthetic.count=7", "method.synthetic.warmup=2")
TRIALS = ("dense", "trials_0", "trials_2", "synthetic", "scores", "progressive_2", "progressive_3", "evaluation")
EVERYTHING = ("callbacks.ema.decay=0.9", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=0.5",
              "data.num_workers=2")  # fmt: skip
SCALA = (*SMALL, *IMAGES, *TAUGHT, "method.granularity=0.25", "model.embed_dim=48", "model.num_heads=6")
CASES = (
    Case("dense", "dense_digits", (*SMALL, *IMAGES), ("dense", "evaluation")),
    Case("UVC", "uvc_digits", (*SMALL, *IMAGES, *TAUGHT, "method.finetune_epochs=2", "method.gate_every=2"),
         ("dense", "search", "decision", "finetune", "evaluation")),
    Case("Scala", "scala_digits", SCALA, ("dense", "scala", "evaluation")),
    Case("USDC", "usdc_digits", (*SMALL, *IMAGES, *TAUGHT, "method.finetune_epochs=2", "method.gate_lr=0.01"),
         ("dense", "joint", "decision", "finetune", "gates", "evaluation")),
    Case("DC-ViT", "dcvit_digits", DCVIT, TRIALS),
    Case("PRACTISE", "practise_digits", (*FEW, "method.latency_batch=8", "budget.drop_blocks=3"),
         ("dense", "trials_0", "trials_2", "scores", "finetune", "evaluation"), measured=True),
    Case("one-shot", "magnitude_digits", (*SMALL, *IMAGES, *TAUGHT, "method.finetune_epochs=2"),
         ("dense", "decision", "finetune", "evaluation")),
    Case("Scala, two processes", "scala_digits", SCALA, ("dense", "scala", "evaluation"), ranks=2),
    Case("DC-ViT, two processes", "dcvit_digits", DCVIT, TRIALS, ranks=2),
    Case("UVC with everything on", "uvc_digits",
         (*SMALL, *IMAGES, *TAUGHT, *EVERYTHING, "method.finetune_epochs=2", "method.gate_every=2",
          "data.no_aug=false", "data.re_prob=0.5", "data.cutmix=1.0", "model.drop_rate=0.1"),
         ("dense", "search", "decision", "finetune", "evaluation")),
)  # fmt: skip


def hunt(case: Case, folder: Path, seed: int) -> tuple[list[Hit], list[str]]:
    """Hit a run wherever it is planned, let it end, and compare; what an interrupted script has noted is kept."""
    this, notes = Hunt(case, folder), folder / f"{case.slug}.json"
    this.vitc.place.mkdir(parents=True, exist_ok=True)
    if not (this.whole / "result.json").exists():
        this.finish("whole")
    past = json.loads(notes.read_text()) if notes.exists() else {"plans": 0, "hits": []}
    hits = [Hit(**hit) for hit in past["hits"]]
    for number, plan in enumerate(plans(case, seed), 1):
        if number > past["plans"]:
            hit = this.hit(plan)
            hits += [hit] if hit else []
            notes.write_text(json.dumps({"plans": number, "hits": [asdict(hit) for hit in hits]}))
            print(f"{case.title}: {hit or f'beyond {plan.phase} before it could be hit'}", flush=True)
    this.finish()
    return hits, differences(this.whole, this.run, case.measured)


def row(case: Case, hits: list[Hit], found: list[str]) -> list[str]:
    """Of the table."""
    signals = Counter(hit.by for hit in hits)
    stopped = ", ".join(f"{count} {name}" for name, count in sorted(signals.items()) if name != "SIGKILL")
    where = Counter(hit.phase for hit in hits)
    phases = ", ".join(f"{phase} {where[phase]}" for phase in case.phases if where[phase])
    return [case.title, str(signals["SIGKILL"]), stopped, phases, str(sum(hit.lost for hit in hits)),
            str(sum(hit.torn > 0 for hit in hits)), "no" if found else "yes", "; ".join(found[:5])]  # fmt: skip


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "kill_resume", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="titles; writes no table")
    args = parser.parse_args()
    rows, kills = [], 0
    for case in CASES:
        if args.only is None or case.title in args.only:
            hits, found = hunt(case, args.runs.absolute(), args.seed)
            rows.append(row(case, hits, found))
            kills += sum(hit.by == "SIGKILL" for hit in hits)
            print(" | ".join(rows[-1]), flush=True)
    header = ["", "kills", "stops", "phases hit", "steps done again", "hits while writing", "identical", "what differs"]
    if args.only is None:
        body = f"{kills} kills and the stops below, seed {args.seed}.\n\n{markdown(header, rows)}"
        runs = [case.run(args.runs.absolute(), name) for case in CASES for name in ("whole", "killed")]
        write_section(DOCUMENT, "kills", body, [json.loads((run / "result.json").read_text()) for run in runs])


if __name__ == "__main__":
    main()
