"""Whether two checkouts compute the same: runs of every method bit for bit, plans, costs and exported models.

For a change that moves code and is to change no result. Each checkout makes a folder, which either compares:

    python benchmarks/same_house.py make /tmp/before    # in the old checkout
    python benchmarks/same_house.py make /tmp/after     # in the new one
    python benchmarks/same_house.py compare /tmp/before /tmp/after
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from forked import Vitc
from kill_resume import CASES
from kills import Case
from safetensors.torch import load_file
from same_run import differences
from study import REPOSITORY

from lightning_vitc.config.sources import experiment_folders

MODELS = (
    "vit_tiny_patch16_224", "vit_base_patch16_224", "deit_small_distilled_patch16_224", "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "vit_so150m_patch16_reg4_gap_256",
)  # fmt: skip
EXPORTS = {"UVC": (), "USDC": ("--variant", "usdc"), "Scala": ("--variant", "elastic"), "DC-ViT": ()}


def make(folder: Path, only: list[str] | None) -> None:
    """Everything that is not there yet."""
    for case in CASES:
        if case.ranks == 1 and (only is None or case.title in only):
            _train(case, folder)
    for name in sorted({file.stem for place in experiment_folders() for file in place.glob("*.yaml")}):
        _say(folder / "plans" / f"{name}.json", "plan", name, "data.name=fake", "--json")
    for model in MODELS:
        for convention in ("full", "paper"):
            _say(folder / "costs" / f"{model}.{convention}.json", "cost", model, "--convention", convention, "--json")


def _train(case: Case, folder: Path) -> None:
    run = case.run(folder, "house")
    run.parents[2].mkdir(parents=True, exist_ok=True)
    vitc = Vitc(run.parents[2])
    if not (run / "result.json").exists():
        done = vitc(*case.arguments("house"), timeout=1200)
        print(case.title, done.code, done.error[-300:], flush=True)
    out = folder / "exports" / case.slug
    if case.title in EXPORTS and not out.exists():
        done = vitc("export", str(run), "--out", str(out), *EXPORTS[case.title])
        print(case.title, "export", done.code, done.error[-300:], flush=True)


def _say(file: Path, *arguments: str) -> None:
    """What a command prints, kept; a refusal too."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        done = Vitc(file.parent)(*arguments, XDG_CACHE_HOME=str(file.parent))
        file.write_text(done.out + done.error)


def compare(one: Path, two: Path) -> Iterator[str]:
    """What differs."""
    for case in CASES:
        runs = [case.run(folder, "house") for folder in (one, two)]
        if all(run.exists() for run in runs):
            yield from (f"{case.title}: {name}" for name in differences(*runs, case.measured))
    for place in ("plans", "costs"):
        for file in sorted((one / place).glob("*.json")):
            if file.read_text() != (two / place / file.name).read_text():
                yield f"{place}/{file.name}"
    for file in sorted((one / "exports").rglob("*.safetensors")):
        before, after = (load_file(path) for path in (file, two / file.relative_to(one)))
        if before.keys() != after.keys() or any(not before[key].equal(after[key]) for key in before):
            yield str(file.relative_to(one))


def main() -> None:
    """Make, or compare and exit with 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "compare"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="titles of runs to make")
    args = parser.parse_args()
    if args.what == "make":
        make(args.folders[0].absolute(), args.only)
        print(f"made by {REPOSITORY}")
        return
    found = list(compare(*args.folders))
    print("\n".join(found) or "the same")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
