"""Mutation testing: one-line faults in the mathematics and the decisions, and which test notices each of them.

`mutants/*.yaml` lists them by file: what is wrong, the part of a line, what it becomes, and the tests nearest to it. They
are chosen by hand: dropped terms, signs, axes, off-by-ones, constants, seeds that leave out a part, arguments that are
not read. One at a time is made in a copy of the checkout, where these tests run: the quick ones, then the slow ones. A
fault is noticed where a test fails that passes without it. What was noticed is not tried again; what survived is.

The lists can be worked on side by side: `--only budget` and `--only data` have notes and a copy each.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sandbox import Sandbox, warm_up
from study import REPOSITORY, markdown, write_section

DOCUMENT = REPOSITORY / "docs" / "results" / "reliability.md"
LISTS = REPOSITORY / "benchmarks" / "mutants"


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        place: the list it is in.
        file: that it is in.
        fault: in words.
        old, new: the part of a line that is there once, and what it becomes.
        tests: files that should notice.
        because: why none does, where none can.
    """

    place: str
    file: str
    fault: str
    old: str
    new: str
    tests: tuple[str, ...]
    because: str = ""

    @property
    def key(self) -> str:
        """Of what is tried, whatever it is called."""
        text = "\n".join((self.file, self.old, self.new, *self.tests))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def made_in(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            ValueError: where the line is no longer there, or there are several, or what it becomes is no Python.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {text.count(self.old)} times")
        made = text.replace(self.old, self.new)
        compile(made, self.file, "exec")
        return made


def mutants(names: Sequence[str] | None = None) -> Iterator[Mutant]:
    """Of all lists, or of those with these names."""
    for path in sorted(LISTS.glob("*.yaml")):
        if names is None or path.stem in names:
            for entry in yaml.safe_load(path.read_text()):
                for fault in entry["faults"]:
                    tests = tuple(f"tests/{test}" for test in fault.pop("tests", entry["tests"]))
                    yield Mutant(path.stem, entry["file"], tests=tests, **fault)


class Notes:
    """What came of the mutants of a list, by their keys, and which of the tests that noticed pass without a fault."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, key: str, value: Any) -> None:
        """Kept at once."""
        self.found[key] = value
        self.path.write_text(json.dumps(self.found, indent=1))


def attempt(mutant: Mutant, sandbox: Sandbox, limit: float) -> dict[str, Any]:
    """What came of it: `noticed` by which test, `survived`, or `limit`, the seconds that were not enough."""
    for speed in ("not slow", "slow"):
        with sandbox.changed(mutant.file, mutant.made_in):
            failed = sandbox.failing(*mutant.tests, "-m", speed, "-x", limit=limit)
        if failed is None:
            return {"limit": limit}
        if failed:
            return {"noticed": failed[0]}
    return {"survived": True}


def work(name: str, folder: Path, limit: float) -> None:
    """Try the mutants of a list that no test has noticed yet; then run the tests that noticed, without any fault."""
    notes, sandbox = Notes(folder / f"{name}.json"), Sandbox(REPOSITORY, folder / name)
    for mutant in mutants([name]):
        if "noticed" not in notes.found.get(mutant.key, {}):
            notes.note(mutant.key, attempt(mutant, sandbox, limit))
            print(f"{mutant.file}: {mutant.fault}: {notes.found[mutant.key]}", flush=True)
    noticing = {found["noticed"] for mutant in mutants([name]) if "noticed" in (found := notes.found[mutant.key])}
    if untried := sorted(noticing - {*notes.found.get("pass", ())}):
        failed = sandbox.failing(*untried, limit=limit * len(untried))
        notes.note("pass", sorted(noticing - {*(untried if failed is None else failed)}))


def noticed_by(mutant: Mutant, found: dict[str, Any]) -> str:
    """The test that fails with the fault alone; empty where there is none."""
    test = found.get(mutant.key, {}).get("noticed", "")
    return test if test in found.get("pass", ()) else ""


def report(folder: Path) -> str:
    """Counts by list, the survivors with the reason, and every fault with the test that notices it."""
    found = {path.stem: Notes(path).found for path in folder.glob("*.json")}
    by = {mutant: noticed_by(mutant, found.get(mutant.place, {})) for mutant in mutants()}
    counts = []
    for name in dict.fromkeys(mutant.place for mutant in by):
        seen = [bool(test) for mutant, test in by.items() if mutant.place == name]
        counts.append([name, *(str(number) for number in (len(seen), sum(seen), len(seen) - sum(seen)))])
    counts.append(["all", *(str(sum(int(row[column]) for row in counts)) for column in (1, 2, 3))])
    left = [[mutant.file, mutant.fault, mutant.because or "?"] for mutant, test in by.items() if not test]
    rows = [[mutant.file, mutant.fault, short(test)] for mutant, test in by.items() if test]
    parts = [markdown(["", "faults", "noticed", "not noticed"], counts)]
    if left:
        parts.append(markdown(["not noticed in", "fault", "because"], left))
    return "\n\n".join([*parts, f"<details><summary>Every fault that is noticed, and by what</summary>\n\n"
                        f"{markdown(['file', 'fault', 'noticed by'], rows)}\n\n</details>"])  # fmt: skip


def short(test: str) -> str:
    """Of a test's name what is needed to find it."""
    file, _, name = test.partition("::")
    return f"`{file.removeprefix('tests/')}` {name.partition('[')[0].removeprefix('test_').replace('_', ' ')}"


def main() -> None:
    """Try what is not noticed yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "mutation", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="LIST", help="names of lists; writes no table")
    parser.add_argument("--limit", type=float, default=300, help="seconds a mutant's tests take (default: %(default)s)")
    parser.add_argument("--table-only", action="store_true", help="write the table of what was tried")
    args = parser.parse_args()
    for mutant in mutants():  # before any time is spent
        mutant.made_in((REPOSITORY / mutant.file).read_text())
    if not args.table_only:
        warm_up()
        for name in dict.fromkeys(mutant.place for mutant in mutants(args.only)):
            work(name, args.runs.absolute(), args.limit)
    if args.only is None:
        write_section(DOCUMENT, "mutants", report(args.runs))


if __name__ == "__main__":
    main()
