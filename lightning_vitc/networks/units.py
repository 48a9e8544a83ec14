"""Large counts for people: MACs, parameters and bytes of a table in one unit, so that they can be compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

LEAST = 0.1  # of its unit: three digits of the smallest count are shown
LETTERS = (("G", 10**9), ("M", 10**6), ("k", 10**3), ("", 1))


@dataclass(frozen=True)
class Unit:
    """`letter` stands for `size`."""

    letter: str
    size: int

    @classmethod
    def of(cls, counts: Iterable[float]) -> Self:
        """The largest unit in which the smallest of the counts still has three digits; zeros do not matter."""
        smallest = min((count for count in counts if count > 0), default=0)
        return next((cls(*unit) for unit in LETTERS if smallest >= LEAST * unit[1]), cls(*LETTERS[-1]))

    def shown(self, count: float) -> str:
        """`4.624 G`, `11,873.280 M`; without a unit a whole number."""
        return f"{count / self.size:,.3f} {self.letter}" if self.letter else f"{count:,.0f}"
