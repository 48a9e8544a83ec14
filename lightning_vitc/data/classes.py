"""Names of classes and their order. Imports no torch.

The order is that of torchvision's ImageFolder, `sorted`, which checkpoints of others were trained with. A file with one
name a line (`data.classes`, and `classes.txt` of a run) gives another one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lightning_vitc.errors import UserError
from lightning_vitc.errors.suggest import did_you_mean
from lightning_vitc.files.records import opened_text, sealed_text

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class ClassNames:
    """The classes that data must have, in their order.

    Attributes:
        names: of class 0, 1, ...
        source: where they are written, or what was trained on them; for messages.
        key: of the experiment, which messages name.
        partial: of a finished network: data that it is evaluated on may lack some, and have no training images.
        remedy: how messages end.
    """

    names: tuple[str, ...]
    source: str
    key: str = "data.root"
    partial: bool = False
    remedy: str = ""

    def check(self, found: Iterable[str], place: str, kind: str = "class folder") -> None:
        """Refuse other classes than these, or, unless it is `partial`, fewer of them.

        Raises:
            UserError: naming the first one that differs.
        """
        found = set(found)
        if extra := sorted(found - {*self.names}):
            near = did_you_mean(extra[0], sorted({*self.names} - found)) or f"; it has {shown(self.names)}"
            end = near if self.partial else self.remedy
            raise UserError(f"{self.key}: {place} has the {kind} {extra[0]!r} that {self.source} lacks{end}")
        if (missing := sorted({*self.names} - found)) and not self.partial:
            raise UserError(f"{self.key}: {place} lacks the {kind} {missing[0]!r} that {self.source} has{self.remedy}")


def read_class_file(path: str | Path, key: str | None = "data.classes") -> tuple[str, ...]:
    """The names in a file, one a line, in their order; empty lines do not count.

    Args:
        path: of the file.
        key: that names it, for messages.

    Raises:
        UserError: where it cannot be read, is damaged, names nothing, or names a class twice.
    """
    file = str(path) if key is None else f"{key}: {path}"
    try:
        text = opened_text(Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); it has one class name a line") from None
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    names = tuple(line for line in text.split("\n") if line)
    if not names:
        raise UserError(f"{file} is empty; it has one class name a line")
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise UserError(f"{file} names the class {twice!r} twice")
    return names


def as_file(names: Sequence[str]) -> bytes:
    """What `read_class_file` reads, with a digest."""
    return sealed_text("".join(f"{name}\n" for name in names)).encode(errors="surrogateescape")


def shown(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def natural_order(names: Iterable[str], source: str) -> tuple[str, ...]:
    """The order of earlier versions: numbers in a name by their value, letters in either case alike.

    Raises:
        UserError: where names are equal by that, whose order was that of the disk.
    """
    ordered = sorted(names, key=_natural_key)
    for one, other in pairwise(ordered):
        if _natural_key(one) == _natural_key(other):
            raise UserError(
                f"{source}: of a version that ordered the classes {one!r} and {other!r} as the disk did, which is not "
                "known; name the order in data.classes, a file with one class name a line"
            )
    return tuple(ordered)


def _natural_key(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
