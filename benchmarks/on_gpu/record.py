"""What was found: one JSON document and its tables, written after every unit."""

import json
from pathlib import Path
from typing import Any

from on_gpu import identity, report

SETTLED = ("ok", "failed")  # what was skipped is tried again: its reason may be gone


class Record:
    """`gpu.json` and `gpu.md` of a folder; an earlier document is continued.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path):
        self.out, self.path = out, out / "gpu.json"
        self.document: dict[str, Any] = {"calls": [], "units": {}}
        if self.path.exists():
            self.document = json.loads(self.path.read_text())

    @property
    def units(self) -> dict[str, dict[str, Any]]:
        """All entries by name."""
        return self.document["units"]

    def status(self, name: str) -> str | None:
        """`ok`, `failed`, `skipped` or `unfinished`; `None` for what no call has come to."""
        return self.units.get(name, {}).get("status")

    def is_settled(self, name: str) -> bool:
        """Whether a unit has come to its end."""
        return self.status(name) in SETTLED

    def forget_failures(self) -> None:
        """They are run again, and what was skipped because of them too."""
        self.document["units"] = {name: unit for name, unit in self.units.items() if unit["status"] != "failed"}

    def claim(self, identity_: dict[str, str]) -> bool:
        """Whether what is recorded is continued; what other code has found is set aside, and nothing is recorded then.

        Raises:
            OtherResultsError: where it is of another device or of other sizes.
        """
        recorded = self.document.get("identity", {})
        identity.check(self.out, recorded, identity_)
        if recorded == identity_:
            return True
        if self.path.exists():
            name = "-".join(["gpu", *(recorded[key] for key in ("commit", "code") if recorded)])
            aside = self.path.replace(self.out / f"{name}{'' if recorded else '-earlier'}.json")
            print(f"the code has changed: what was found before is in {aside}, and everything is done again")
        self.document = {"identity": identity_, "calls": [], "units": {}}
        return False

    def begin(self, call: dict[str, Any]) -> None:
        """Note a call of the script: machine, versions, date, commit."""
        self.document["calls"].append(call)
        self.write()

    def add(self, name: str, outcome: dict[str, Any], seconds: float) -> None:
        """Note what became of a unit."""
        call = len(self.document["calls"]) - 1
        self.units[name] = {**outcome, "seconds": round(seconds, 1), "call": call}
        self.write()

    def write(self) -> None:
        """Each file whole or not at all, what was found first: an error of the tables is printed and costs no unit."""
        self.out.mkdir(parents=True, exist_ok=True)
        _replace(self.path, json.dumps(self.document, indent=1, default=repr))
        try:
            _replace(self.out / "gpu.md", self.tables())
        except Exception as error:
            print(f"gpu.md is not written: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)

    def tables(self) -> str:
        """All of it as Markdown."""
        return report.markdown_of(self.document)


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text + "\n")
    new.replace(path)
