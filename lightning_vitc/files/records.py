"""Records that are believed later carry a digest of what they say: damage is noticed, and not taken for a result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"  # the last key of a record; those of earlier versions have none, and are taken as they are
SEAL = "# digest of the lines above: "


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest."""
    bare = {key: value for key, value in record.items() if key != DIGEST}  # of one that was read by other means
    return {**bare, DIGEST: _digest(bare)}


def opened(text: str | bytes) -> dict[str, Any]:
    """The record in a JSON text, without its digest.

    Raises:
        ValueError: where it is no JSON object, or not what was written.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if DIGEST in record and record.pop(DIGEST) != _digest(record):
        raise ValueError("it is not what was written")
    return record


def sealed_text(text: str) -> str:
    """Lines that are no JSON, with a last one that holds their digest."""
    return f"{text}{SEAL}{_text_digest(text)}\n"


def opened_text(text: str) -> str:
    """The lines without the one that holds their digest.

    Raises:
        ValueError: where they, or that one, are not what was written.
    """
    above, end, last = text.removesuffix("\n").rpartition("\n")
    lines, digest = above + end, _text_digest(above + end)
    if last == SEAL + digest:
        return lines
    if SEAL in last or last.endswith(digest):  # whichever half of it is damaged
        raise ValueError("not as it was written; if it was changed on purpose, remove its last line")
    return text


def _digest(record: Mapping[str, Any]) -> str:
    """Of what is read back: tuples are lists there, and all keys are strings."""
    return _text_digest(json.dumps(json.loads(json.dumps(record)), sort_keys=True))


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
