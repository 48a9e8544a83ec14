"""What all units of a record must have in common to stand in one table: the device, the sizes, and the code."""

import hashlib
import zlib
from pathlib import Path
from typing import Any

from on_gpu.wheels import REPOSITORY

OTHERS = ("device", "sizes")  # what is never mixed; where the code has changed, everything is done again
SOURCES = ("lightning_vitc", "benchmarks")


class OtherResultsError(Exception):
    """A folder holds what another device has found, or other sizes."""


def identity_of(found: dict[str, Any], tiny: bool, commit: str | None) -> dict[str, str]:
    """Of a call of the script.

    Args:
        found: what `machine.found` says.
        tiny: whether its sizes are.
        commit: of the checkout; what has changed since is told by `code`.
    """
    return {"device": f"{found['device']}, {found['card']}", "sizes": "tiny" if tiny else "full",
            "commit": str(commit), "code": code()}  # fmt: skip


def code(folder: Path = REPOSITORY) -> str:
    """A digest of the package and of the benchmarks as they lie there."""
    digest = hashlib.sha256()
    for path in sorted(
        path for name in SOURCES for kind in ("py", "yaml") for path in folder.glob(f"{name}/**/*.{kind}")
    ):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def scratch_of(scratch: Path, out: Path, identity: dict[str, str]) -> Path:
    """A folder for the runs of one record, so that no other one's are continued or taken for its own."""
    return scratch / f"{zlib.crc32(f'{out} {identity}'.encode()):08x}"


def check(out: Path, recorded: dict[str, str], identity: dict[str, str]) -> None:
    """That a record may be continued or set aside.

    Raises:
        OtherResultsError: where its device or its sizes are others.
    """
    if recorded and any(recorded[key] != identity[key] for key in OTHERS):
        theirs, ours = (f"{one['sizes']} sizes on {one['device']}" for one in (recorded, identity))
        raise OtherResultsError(
            f"--out: {out} holds results of {theirs}, these would be of {ours}: give another folder"
        )
