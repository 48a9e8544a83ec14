"""From what is expected to what is measured: the limit that a method is given is corrected until the network fits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lightning_vitc.budget.target import LATENCY, as_number, shown
from lightning_vitc.errors import UserError

Choice = TypeVar("Choice")

CLOSE = 0.02  # so far below the budget is good enough
TRIES = 7
OVER = 0.05  # no more than this over the budget, where nothing within it was found


@dataclass
class Fit(Generic[Choice]):
    """What was chosen, its measured latency, and all that was tried: `limit` and `measured`, in nanoseconds."""

    choice: Choice
    measured: int
    tries: list[dict[str, int]] = field(default_factory=list)

    def facts(self, budget: int) -> dict[str, Any]:
        """For the record of a run, in milliseconds."""
        tries = [{key: as_number(LATENCY, value) for key, value in one.items()} for one in self.tries]
        return {"budget": as_number(LATENCY, budget), "measured": as_number(LATENCY, self.measured), "tries": tries}


def fit(budget: int, decide: Callable[[int], Choice], measure: Callable[[Choice], int]) -> Fit[Choice]:
    """The largest of what `decide` gives whose measured latency is within the budget.

    The limit that `decide` is given is scaled by how far the measurement is from the budget, and kept between the
    largest limit that has fit and the smallest that has not. It ends when the measurement is at most `CLOSE` below the
    budget, when a choice within it comes again, or after `TRIES`.

    Args:
        budget: in nanoseconds.
        decide: what a method makes of a limit; it may refuse a limit other than the first by a UserError.
        measure: the latency of a choice.

    Raises:
        UserError: where all that was measured is more than `OVER` over the budget.
    """
    found: list[Fit[Choice]] = []
    tries: list[dict[str, int]] = []
    limit, fitting, exceeding = budget, 0, None
    for _ in range(2 * TRIES):
        choice = _decided(decide, limit, first=not tries)
        again = [one for one in found if one.choice == choice]
        if choice is None or len(tries) == TRIES or (again and again[0].measured <= budget):
            break
        if again:  # too large, and what is decided moves in larger steps
            limit = int(limit * (1 - OVER))
            continue
        found.append(Fit(choice, measure(choice), tries))
        measured = found[-1].measured
        tries.append({"limit": limit, "measured": measured})
        if (1 - CLOSE) * budget <= measured <= budget:
            break
        fitting, exceeding = (limit, exceeding) if measured <= budget else (fitting, limit)
        limit = _next(limit, budget / measured, fitting, exceeding)
    return _best(found, budget)


def _decided(decide: Callable[[int], Choice], limit: int, first: bool) -> Choice | None:
    try:
        return decide(limit)
    except UserError:
        if first:
            raise
        return None


def _next(limit: int, ratio: float, fitting: int, exceeding: int | None) -> int:
    """Where proportion leads, or the middle where that was tried."""
    scaled = int(limit * ratio * (1 - CLOSE / 2))
    if exceeding is not None and not fitting < scaled < exceeding:
        return (fitting + exceeding) // 2
    return max(scaled, fitting + 1)


def _best(found: list[Fit[Choice]], budget: int) -> Fit[Choice]:
    within = [one for one in found if one.measured <= budget]
    best = max(within, key=lambda one: one.measured) if within else min(found, key=lambda one: one.measured)
    if best.measured > (1 + OVER) * budget:
        raise UserError(
            f"budget.{LATENCY}: {shown(LATENCY, budget)} was not reached; the least that was measured is "
            f"{shown(LATENCY, best.measured)}"
        )
    return best
