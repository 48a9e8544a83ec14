"""The splits of a data set by their true names, in records and in words: what images a number is of."""

from collections.abc import Mapping
from typing import Any

from lightning_vitc.errors.messages import counted

TRAIN, VALIDATION, TEST = "train", "validation", "test"
HELD_OUT = "held_out"  # of the training images, for lack of a split of its own
WORDS = {
    TRAIN: "training split",
    VALIDATION: "validation split",
    TEST: "test split",
    HELD_OUT: "held-out part of the training images",
}


def evaluated_on(record: Mapping[str, Any]) -> str:
    """`test split, 359 images`, of a result or of a row, with what was left out; of earlier versions without a number.

    Args:
        record: with `split` and, where they are known, `images` and `left_out`, its numbers.
    """
    parts = [WORDS[split_of(record)]]
    if "images" in record:
        parts.append(counted(record["images"], "image"))
    if record.get("left_out"):
        parts.append(f"{counted(record['left_out'], 'unusable image')} left out")
    return ", ".join(parts)


def split_of(record: Mapping[str, Any]) -> str:
    """The split of a record; one that no version of ours wrote is taken for the test split."""
    name = str(record.get("split"))
    return name if name in WORDS else TEST
