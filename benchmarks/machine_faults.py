"""Runs on a file system that takes so many files and no more, and runs whose data workers are killed.

Each is one line and exit code 1, or 2 where not even the run's directory can be made. The same command, once there is
room, ends as a run that nothing happened to.
The file systems are mounted (tmpfs), which takes root.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from forked import Done, Vitc
from kill_resume import DOCUMENT, SCALA
from kills import EVERY
from same_run import differences
from study import REPOSITORY, markdown, write_section

RUN = "runs/scala_digits/default"
TRAIN = ("train", "scala_digits", *SCALA, EVERY)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGBUS)
ENDS = ("one line, exit 1", "not begun, one line, exit 2", "more lines", "not hit", "continued, identical")


class Disk:
    """A mounted file system of so many inodes."""

    def __init__(self, place: Path):
        self.place = place

    def mount(self, inodes: int) -> None:
        """Empty."""
        self.place.mkdir(parents=True, exist_ok=True)
        self._do("mount", "-t", "tmpfs", "-o", f"size=64m,nr_inodes={inodes}", "tmpfs")

    def widen(self) -> None:
        """To as many inodes as anybody wants."""
        self._do("mount", "-o", "remount,nr_inodes=10000")

    def unmount(self) -> None:
        """And forget what is there."""
        self._do("umount")

    def _do(self, *command: str) -> None:
        subprocess.run([*command, str(self.place)], check=True)


def judged(done: Done, counts: Counter[str]) -> None:
    """Count how a run ended."""
    lines = done.error.strip().splitlines()
    if done.code == 0:
        counts["not hit"] += 1
    elif done.code in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "):
        counts[ENDS[done.code - 1]] += 1
    else:
        counts["more lines"] += 1
        print(done.code, done.error[-2000:], flush=True)


def continued(vitc: Vitc, arguments: tuple[str, ...], run: Path, whole: Path, counts: Counter[str]) -> None:
    """The same command again, and what it ends as."""
    done = vitc(*arguments)
    found = differences(whole, run) if done.code == 0 else [done.error]
    counts["continued, identical"] += not found
    if found:
        print(found[:5], flush=True)


def without_inodes(folder: Path, cases: int) -> Counter[str]:
    """So many limits, spread over the number of files that a run makes."""
    whole, disk, logs, counts = folder / "whole" / RUN, Disk(folder / "disk"), folder / "logs", Counter[str]()
    logs.mkdir(exist_ok=True)
    arguments = (*TRAIN, f"output_dir={disk.place / 'runs'}")
    disk.mount(10_000)
    free = os.statvfs(disk.place).f_ffree
    Vitc(logs)(*arguments)
    needed = free - os.statvfs(disk.place).f_ffree
    disk.unmount()
    for number in range(cases):
        disk.mount(4 + round(number * needed / cases))  # the mount's own directory is one, those of the run are three
        try:
            vitc = Vitc(logs)
            judged(vitc(*arguments), counts)
            disk.widen()
            continued(vitc, arguments, disk.place / RUN, whole, counts)
        finally:
            disk.unmount()
    return counts


def workers(process: BaseProcess) -> list[int]:
    """The processes that a run has started."""
    try:
        return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def with_killed_workers(folder: Path, number: int, cases: int, draw: random.Random) -> Counter[str]:
    """A signal to one of two workers, some time after the first checkpoint of a stage."""
    whole, place, counts = folder / "whole" / RUN, folder / "workers", Counter[str]()
    arguments = (*TRAIN, "data.num_workers=2")
    for _ in range(cases):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        vitc, first = Vitc(place), place / RUN / "checkpoints" / draw.choice(("dense", "scala")) / "last.ckpt"
        process = vitc.start(*arguments)
        while process.is_alive() and not first.exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.3))
        if found := workers(process):
            os.kill(draw.choice(found), number)
        judged(vitc.done(process), counts)
        continued(vitc, arguments, place / RUN, whole, counts)
    return counts


def main() -> None:
    """Run all cases, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "faults", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--limits", type=int, default=10, help="of inodes (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="a signal (default: %(default)s)")
    args = parser.parse_args()
    folder, draw = args.runs.absolute(), random.Random(args.seed)
    (folder / "whole").mkdir(parents=True, exist_ok=True)
    Vitc(folder / "whole")(*TRAIN)
    rows = []
    for title, cases, counts in (
        ("no inode left", args.limits, without_inodes(folder, args.limits)),
        *((f"{number.name} to a data worker", args.kills, with_killed_workers(folder, number, args.kills, draw))
          for number in SIGNALS),
    ):  # fmt: skip
        rows.append([title, str(cases), *(str(counts[name]) for name in ENDS)])
        print(" | ".join(rows[-1]), flush=True)
    result = json.loads((folder / "whole" / RUN / "result.json").read_text())
    write_section(DOCUMENT, "machine faults", markdown(["", "cases", *ENDS], rows), [result])


if __name__ == "__main__":
    main()
