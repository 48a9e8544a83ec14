"""Mutation testing: one-line faults in the mathematics and the decisions, and which test notices each of them.

`mutants/*.yaml` lists them by file: what is wrong, the part of a line, what it becomes, and the tests nearest to it.
They are chosen by hand: dropped terms, signs, axes, off-by-ones, constants, seeds that leave out a part, arguments that
are not read. One at a time is made in a copy of the checkout, where these tests run: the quick ones, and all of them
where it has survived these. A fault is noticed where a test fails that passes without it. What was noticed is not tried
again; what survived is, once its tests have changed.

The lists can be worked on side by side: `--only budget` and `--only data` have notes and a copy each.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sandbox import Sandbox, warm_up
from study import REPOSITORY, markdown, write_section

DOCUMENT = REPOSITORY / "docs" / "results" / "reliability.md"
LISTS = REPOSITORY / "benchmarks" / "mutants"
SPEEDS = ("quick", "all")
KINDS = ("noticed", "explained", "survived", "not tried")


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        place: the list it is in.
        file: that it is in.
        fault: in words.
        old, new: the part of a line that is there once, and what it becomes.
        tests: that should notice: files, or single ones of files that take long.
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
    """What came of the mutants of a list, by their keys, and which of the tests that noticed pass `without fault`."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, key: str, value: Any) -> None:
        """Kept at once."""
        self.found[key] = value
        self.path.write_text(json.dumps(self.found, indent=1))


def attempt(mutant: Mutant, sandbox: Sandbox, speed: str, limit: float) -> dict[str, Any]:
    """What came of it: `noticed` by which test, `late` after so many seconds, or `survived` the tests as they are."""
    with sandbox.changed(mutant.file, mutant.made_in):
        failed = sandbox.failing(*mutant.tests, "-x", limit=limit, quick=speed == "quick")
    if failed is None:
        return {"late": limit}
    return {"noticed": failed[0]} if failed else {"survived": {speed: digest(mutant.tests)}}


def digest(tests: Sequence[str]) -> str:
    """Of the text of test files."""
    files = (REPOSITORY / test.partition("::")[0] for test in tests)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def work(name: str, folder: Path, limit: float) -> None:
    """Try the mutants of a list that no test has noticed yet; then run the tests that noticed, without any fault."""
    notes, sandbox = Notes(folder / f"{name}.json"), Sandbox(REPOSITORY, folder / name)
    for speed, mutant in ((speed, mutant) for speed in SPEEDS for mutant in mutants([name])):
        before = notes.found.get(mutant.key, {})
        survived = before.get("survived", {})
        if mutant.because and speed == "all":
            continue
        if "noticed" not in before and survived.get(speed) != digest(mutant.tests):
            found = attempt(mutant, sandbox, speed, limit)
            print(f"{mutant.file}: {mutant.fault}: {found}", flush=True)
            notes.note(mutant.key, found | {"survived": survived | found.get("survived", {})})
    noticing = {
        found["noticed"] for mutant in mutants([name]) if "noticed" in (found := notes.found.get(mutant.key, {}))
    }
    passing: dict[str, bool] = notes.found.get("without fault", {})
    if untried := sorted(noticing - passing.keys()):
        failed = sandbox.failing(*untried, limit=limit * len(untried))
        if failed is not None:
            notes.note("without fault", passing | {test: test not in failed for test in untried})


def outcome(mutant: Mutant, found: dict[str, Any]) -> tuple[str, str]:
    """One of `KINDS`, and the test that fails with the fault alone, or why there is none."""
    if mutant.because:
        return "explained", f"none: {mutant.because}"
    tried = found.get(mutant.key, {})
    if "noticed" not in tried:
        return ("survived", "none") if tried else ("not tried", "?")
    passes = found.get("without fault", {}).get(tried["noticed"])
    if passes is None:
        return "not tried", "?"
    return ("noticed", short(tried["noticed"])) if passes else ("survived", "none")


def report(folder: Path) -> str:
    """Counts by list, and every fault with what came of it."""
    from lightning_vitc.pipeline.results import git_commit  # not before: the tests import that of their own checkout

    found = {path.stem: Notes(path).found for path in folder.glob("*.json")}
    of = {mutant: outcome(mutant, found.get(mutant.place, {})) for mutant in mutants()}
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*dict.fromkeys(one.place for one in of), "all")}
    for mutant, (kind, _) in of.items():
        counts[mutant.place].update(("faults", kind))
        counts["all"].update(("faults", kind))
    header = ("faults", *KINDS)
    summary = markdown(["", *header], [[name, *(str(one[kind]) for kind in header)] for name, one in counts.items()])
    rows = [[mutant.file, mutant.fault, text] for mutant, (_, text) in of.items()]
    details = markdown(["file", "fault", "noticed by"], rows)
    return (
        f"At commit {git_commit()}:\n\n{summary}\n\n<details><summary>Every fault</summary>\n\n{details}\n\n</details>"
    )


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
