"""Records of runs and exports with one bit flipped, and what the commands that go by them make of it."""

import argparse
import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forked import Done, Vitc
from kill_resume import DOCUMENT, IMAGES, SCALA, SMALL, TAUGHT
from PIL import Image
from study import REPOSITORY, markdown, write_section

SCALA_RUN, UVC_RUN, FOLDER_RUN = (f"runs/{name}_digits/default" for name in ("scala", "uvc", "dense"))
TRAIN = ("train", "scala_digits", *SCALA)
TRAIN_UVC = ("train", "uvc_digits", *SMALL, *IMAGES, *TAUGHT, "method.finetune_epochs=2", "method.gate_every=2")
TRAIN_FOLDER = (
    "train", "dense_digits", *SMALL, "data.name=folder", "data.root=images", "data.batch_size=4", "model.in_chans=3",
    "trainer.max_epochs=8",
)  # fmt: skip
REPORT = ("report", SCALA_RUN, "--out", "report", "--repeats", "1", "--batch-size", "1")
ENDS = ("traceback", "believed", "refused", "warned", "nothing changed")


@dataclass(frozen=True)
class Record:
    """A file, and a command that goes by it.

    Attributes:
        file: that is damaged.
        command: of `vitc`.
        cases: how many bits.
        made: globs of what the command makes of it; default: what it prints.
        gone: removed first, so that a run is continued and not found complete.
    """

    file: str
    command: tuple[str, ...]
    cases: int
    made: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Of the row in the table."""
        what = f"{self.command[0]}, continued" if self.gone else self.command[0]
        return f"`{self.file.removeprefix('runs/')}`: {what}"


def records() -> list[Record]:
    """One of each kind that a command goes by."""
    scala, uvc = ("evaluate", SCALA_RUN), ("evaluate", UVC_RUN)
    one, result = ("evaluate", "exports/one"), f"{SCALA_RUN}/result.json"
    return [
        Record(f"{SCALA_RUN}/metrics.jsonl", REPORT, 30, made=("report/loss_0.png", "report/accuracy_0.png")),
        Record(f"{SCALA_RUN}/metrics.jsonl", TRAIN, 20, made=(f"{SCALA_RUN}/metrics.jsonl",),
               gone=(result, f"{SCALA_RUN}/checkpoints/scala/done.json")),
        Record(result, TRAIN, 40),
        Record(f"{SCALA_RUN}/config.yaml", scala, 20),
        Record(f"{SCALA_RUN}/classes.txt", scala, 20),
        Record(f"{SCALA_RUN}/checkpoints/scala/done.json", scala, 15),
        Record(f"{SCALA_RUN}/checkpoints/scala/best.ckpt", scala, 20),
        Record(f"{UVC_RUN}/architecture.json", uvc, 30),
        Record(f"{FOLDER_RUN}/images.json", TRAIN_FOLDER, 15, gone=(f"{FOLDER_RUN}/result.json",)),
        Record("exports/one/arch.json", one, 30),
        Record("exports/one/model.safetensors", one, 15),
    ]  # fmt: skip


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
    for arguments in (TRAIN, TRAIN_UVC, TRAIN_FOLDER, ("export", SCALA_RUN, "--out", "exports/one", "--width", ".5")):
        if (done := Vitc(place)(*arguments)).code:
            raise RuntimeError(f"{' '.join(arguments)}: {done.error}")


def tried(record: Record, whole: Path, bit: int | None = None) -> tuple[Done, list[bytes]]:
    """The command on a copy of everything, in which a bit of the record is flipped; and what it made."""
    place = whole.with_name("case")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    for name in record.gone:
        (place / name).unlink()
    if bit is not None:
        content = bytearray((place / record.file).read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        (place / record.file).write_bytes(content)
    done = Vitc(place)(*record.command)
    files = [place / name for name in record.made]
    return done, [file.read_bytes() for file in files if file.exists()] if files else [done.out.encode()]


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


def count(record: Record, whole: Path, seed: int) -> Counter[str]:
    """How so many cases end; what an interrupted script has noted is kept."""
    draw, ends = random.Random(f"{record.title} {seed}"), Counter[str]()
    notes = whole.with_name("notes.json")
    noted = json.loads(notes.read_text()) if notes.exists() else {}
    if (name := f"{record.title}, {record.cases} bits, seed {seed}") in noted:
        return Counter(noted[name])
    done, expected = tried(record, whole)
    if done.code or done.error:
        raise RuntimeError(f"{record.title}: {done.error}")
    for _ in range(record.cases):
        bit = draw.randrange(8 * (whole / record.file).stat().st_size)
        found = end_of(*tried(record, whole, bit), expected)
        ends[found] += 1
        if found in ("traceback", "believed"):
            print(f"{record.title}, bit {bit}: {found}", flush=True)
    notes.write_text(json.dumps({**noted, name: ends}))
    return ends


def main() -> None:
    """Run all cases, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "flipped_bits", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the bits (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", help="records whose titles hold it; writes no table")
    args = parser.parse_args()
    whole = args.runs.absolute() / "whole"
    if not (whole / "exports" / "one").exists():
        prepare(whole)
    rows, total = [], Counter[str]()
    for record in records():
        if args.only is None or args.only in record.title:
            ends = count(record, whole, args.seed)
            total += ends
            rows.append([record.title, str(record.cases), *(str(ends[end]) for end in ENDS)])
            print(" | ".join(rows[-1]), flush=True)
    if args.only is None:
        rows.append(["all", str(total.total()), *(str(total[end]) for end in ENDS)])
        results = [json.loads((whole / run / "result.json").read_text()) for run in (SCALA_RUN, UVC_RUN, FOLDER_RUN)]
        write_section(DOCUMENT, "flipped bits", markdown(["", "bits", *ENDS], rows), results)


if __name__ == "__main__":
    main()
