"""Records of runs and exports with one bit flipped, and what every command that may go by them makes of it."""

import argparse
import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forked import Done, Vitc
from kill_resume import DCVIT, DOCUMENT, IMAGES, SCALA, SMALL, TAUGHT
from PIL import Image
from study import REPOSITORY, markdown, write_section

FOLDER = ("data.name=folder", "data.root=images", "data.batch_size=4", "model.in_chans=3", "trainer.max_epochs=8")
TRAININGS = {
    "scala_digits": SCALA,
    "uvc_digits": (*SMALL, *IMAGES, *TAUGHT, "method.finetune_epochs=2", "method.gate_every=2"),
    "usdc_digits": (*SMALL, *IMAGES, *TAUGHT, "method.finetune_epochs=2", "method.gate_lr=0.01"),
    "dcvit_digits": DCVIT,
    "dense_digits": (*SMALL, *FOLDER),
}
EXPORTS = {
    "exports/narrow": ("runs/scala_digits/default", "--width", ".5"),
    "exports/elastic": ("runs/scala_digits/default", "--variant", "elastic"),
    "exports/uvc": ("runs/uvc_digits/default", "--formats", "safetensors,onnx,pt2"),
    "exports/gated": ("runs/usdc_digits/default", "--formats", "safetensors"),
}
ENDS = ("traceback", "believed", "refused", "warned", "nothing changed")
PICTURES = ("new/loss_*.png", "new/accuracy_?.png", "new/architecture*.png")  # that show no times
NO_RECORDS = (".png", ".sbatch", ".md", ".html", ".lock", ".out")  # pictures, scripts and pages, which no command reads


@dataclass(frozen=True)
class Task:
    """A command that may go by records.

    Attributes:
        title: in the table.
        arguments: of `vitc`.
        made: globs of what it makes of them; default: what it prints.
        gone: globs of what is removed first, so that a run is continued and not found complete.
    """

    title: str
    arguments: tuple[str, ...]
    made: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def tasks() -> Iterator[tuple[str, list[Task]]]:
    """Folders of records, and the commands that are given them."""
    for name, overrides in TRAININGS.items():
        run = f"runs/{name}/default"
        again = ("train", name, *overrides)
        whole = (f"{run}/result.json", f"{run}/checkpoints/*/done.json")
        yield (
            run,
            [
                Task("train", again),
                Task("train, continued", again, made=(f"{run}/architecture.json", f"{run}/blocks.json"), gone=whole),
                Task("evaluate", ("evaluate", run)),
                Task("export", ("export", run, "--out", "new"), made=("new/**/*",)),
                Task("report", ("report", run, "--out", "new", "--repeats", "1"), made=PICTURES),
            ],
        )
    for folder in EXPORTS:
        measured = ("benchmark", folder, "--repeats", "1", "--batch-sizes", "1")
        commands = [
            Task("evaluate an export", ("evaluate", folder)),
            Task("benchmark an export", measured, made=("none",)),
            Task("report on an export", ("report", folder, "--out", "new", "--repeats", "1"), made=PICTURES),
        ]
        yield folder, commands[:2] if "elastic" in folder else commands  # whose report is that of its run


def records(folder: Path) -> list[Path]:
    """All files of a folder that say something."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.stat().st_size)
    return [file for file in files if file.suffix not in NO_RECORDS and "tensorboard" not in file.parts]


def prepare(place: Path) -> None:
    """The runs and exports that nothing happened to.

    Raises:
        RuntimeError: where one cannot be made.
    """
    random_pixels = np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 2, 6):
        file = place / "images" / ("train", "val")[split] / ("cat", "dog")[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random_pixels.integers(150 * label, 150 * label + 100, (8, 8, 3), dtype=np.uint8)  # dark and bright
        Image.fromarray(pixels).save(file)
    trainings = [("train", name, *overrides) for name, overrides in TRAININGS.items()]
    exports = [("export", run, "--out", folder, *options) for folder, (run, *options) in EXPORTS.items()]
    for arguments in (*trainings, *exports):
        if (done := Vitc(place)(*arguments)).code:
            raise RuntimeError(f"{' '.join(arguments)}: {done.error}")


def tried(task: Task, whole: Path, record: Path | None = None, bit: int = 0) -> tuple[Done, list[bytes]]:
    """The command on a copy of everything, in which a bit of a record may be flipped; and what it made."""
    place = whole.with_name("case")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    if record is not None:
        damaged = place / record.relative_to(whole)
        content = bytearray(damaged.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(content)
    for name in (file for pattern in task.gone for file in place.glob(pattern)):
        name.unlink()
    done = Vitc(place)(*task.arguments)
    files = [file for pattern in task.made for file in sorted(place.glob(pattern)) if file.is_file()]
    return done, [file.read_bytes() for file in files] if task.made else [done.out.encode()]


def end_of(done: Done, made: list[bytes], expected: list[bytes]) -> str:
    """Which of `ENDS` it is."""
    lines = done.error.strip().splitlines()
    if "Traceback" in done.error or (done.code and (done.code != 2 or len(lines) != 1)):
        return "traceback"
    if done.code:
        return "refused"
    if lines:
        return "warned"
    return "nothing changed" if made == expected else "believed"


def count(folder: str, task: Task, whole: Path, bits: int, seed: int) -> dict[str, Counter[str]]:
    """How so many cases of each kind of record end; what an interrupted script has noted is kept."""
    notes = whole.with_name("notes.json")
    noted = json.loads(notes.read_text()) if notes.exists() else {}
    if (name := f"{folder}, {task.title}, {bits} bits, seed {seed}") not in noted:
        done, expected = tried(task, whole)
        if done.code or done.error:
            raise RuntimeError(f"{name}: {done.error}")
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for record in records(whole / folder):
            draw = random.Random(f"{record.relative_to(whole)} {task.title} {seed}")
            for bit in (draw.randrange(8 * record.stat().st_size) for _ in range(bits)):
                end = end_of(*tried(task, whole, record, bit), expected)
                found[kind(record.relative_to(whole / folder))][end] += 1
                if end in ("traceback", "believed"):
                    print(f"{record.relative_to(whole)}, bit {bit}, {task.title}: {end}", flush=True)
        noted[name] = found
        notes.write_text(json.dumps(noted))
        print(f"{name}: {sum(map(Counter, found.values()), Counter())}", flush=True)
    return {record: Counter(ends) for record, ends in noted[name].items()}


def kind(record: Path) -> str:
    """What a row of the table says of a file of a run or an export."""
    return f"`{record.parts[0]}/.../{record.name}`" if len(record.parts) > 1 else f"`{record.name}`"


def main() -> None:
    """Run all cases, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "flipped_bits", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the bits (default: %(default)s)")
    parser.add_argument("--bits", type=int, default=3, help="of each record and command (default: %(default)s)")
    args = parser.parse_args()
    whole = args.runs.absolute() / "whole"
    if not all((whole / folder).exists() for folder in EXPORTS):
        prepare(whole)
    ends, commands = defaultdict(Counter[str]), defaultdict(set)
    for folder, task in ((folder, task) for folder, several in tasks() for task in several):
        for record, found in count(folder, task, whole, args.bits, args.seed).items():
            ends[record] += found
            commands[record].add(task.title)
    rows = [[record, ", ".join(sorted(commands[record])), *cells(found)] for record, found in ends.items()]
    rows.append(["all", "", *cells(sum(ends.values(), Counter()))])
    results = [json.loads((whole / f"runs/{name}/default/result.json").read_text()) for name in TRAININGS]
    write_section(DOCUMENT, "flipped bits", markdown(["", "commands", "bits", *ENDS], rows), results)


def cells(ends: Counter[str]) -> list[str]:
    """The numbers of a row."""
    return [str(ends.total()), *(str(ends[end]) for end in ENDS)]


if __name__ == "__main__":
    main()
