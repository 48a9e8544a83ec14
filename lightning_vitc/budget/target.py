"""Budgets as users write them: `50%` of the dense model, `2.3G`, `350M`, a whole number, or milliseconds."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig

LATENCY = "latency_ms"  # counted in nanoseconds, so that all amounts are whole numbers
NANOSECONDS = 1_000_000  # of a millisecond
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Table(Protocol):
    """Of measured latencies: `latency.table.LatencyTable`."""

    @property
    def dense(self) -> int:
        """Nanoseconds of the dense network."""

    @property
    def unit_costs(self) -> UnitCosts:
        """The nearest linear costs."""

    def measure(self, spec: ArchSpec) -> int:
        """Nanoseconds of a network."""


@dataclass(frozen=True)
class Target:
    """An upper limit on one quantity of the compressed model.

    Attributes:
        quantity: `macs`, `params` or `latency_ms`.
        amount: the limit, never exceeded; of a latency in nanoseconds.
        dense: what the dense model has.
        convention: how MACs are counted, and `method`: by whose paper.
        table: of a latency, what it is reckoned with.
    """

    quantity: str
    amount: int
    dense: int
    convention: str = "full"
    method: str = costs.DEFAULT_PAPER
    table: Table | None = None

    @property
    def ratio(self) -> float:
        """The limit as a share of dense."""
        return self.amount / self.dense

    def measure(self, spec: ArchSpec) -> int:
        """The quantity of a network; a latency is that which is expected."""
        if self.table is not None:
            return self.table.measure(spec)
        return costs.params(spec) if self.quantity == "params" else costs.macs(spec, self.convention, self.method)

    @property
    def measured_dense(self) -> int | None:
        """The dense latency, where a latency is the budget."""
        return None if self.table is None else self.dense

    def unit_costs(self, spec: ArchSpec) -> UnitCosts:
        """What each piece of a dense network costs; of a latency the nearest linear costs."""
        if self.table is not None:
            return self.table.unit_costs
        return UnitCosts.of(spec, self.quantity, self.convention, self.method)

    def shown(self, amount: int) -> str:
        """An amount for people."""
        return shown(self.quantity, amount)


def target_of(budget: BudgetConfig, spec: ArchSpec, method: str, table: Table | None = None) -> Target:
    """What the `budget` section asks of a dense network.

    Args:
        budget: the section; exactly one of `macs`, `params` and `latency_ms` is set.
        spec: the dense network.
        method: name of the method, whose paper `convention=paper` counts by.
        table: of the network; read with `latency_ms`.

    Raises:
        UserError: where none or both are set, or the amount is no amount or more than dense.
    """
    if budget.latency_ms is not None:
        assert table is not None
        return Target(LATENCY, latency_amount(budget.latency_ms, table.dense), table.dense, table=table)
    given = {key: value for key in ("macs", "params") if (value := getattr(budget, key)) is not None}
    if len(given) != 1:
        what = "not set" if not given else "set beside budget.params"
        raise UserError(f"budget.macs: {what}; give one of budget.macs and budget.params, such as budget.macs=50%")
    quantity, text = next(iter(given.items()))
    counting = Target(quantity, 0, 1, budget.convention, method)
    dense = counting.measure(spec)
    amount = parse_amount(text, dense, f"budget.{quantity}")
    if amount > dense:
        raise UserError(f"budget.{quantity}: {text} is more than the dense model's {dense:,}")
    return Target(quantity, amount, dense, budget.convention, method)


def parse_amount(text: str | float, dense: int, key: str) -> int:
    """A whole number from `50%`, `2.3G`, `350M` or `1200000`; shares are rounded down.

    Raises:
        UserError: naming `key`, for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT%]?)\s*", str(text))
    if match is None or (not match[2] and "." in match[1]):
        raise UserError(f"{key}: {text!r} is not an amount; write a share such as 50%, or a number such as 2.3G")
    number, unit = Fraction(match[1]), match[2]
    amount = number * dense / 100 if unit == "%" else number * UNITS[unit]
    if amount <= 0:
        raise UserError(f"{key}: {text} is nothing; it must be more than 0")
    return int(amount)


def latency_amount(text: str | float, dense: int, key: str = "budget.latency_ms") -> int:
    """Nanoseconds from milliseconds, or from a share of the dense network's, such as `60%`.

    Raises:
        UserError: naming `key`, for anything else, or more than dense.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%?)\s*", str(text))
    if match is None or not Fraction(match[1]):
        raise UserError(f"{key}: {text!r} is not a latency; write milliseconds such as 12.5, or a share such as 60%")
    amount = Fraction(match[1]) * (Fraction(dense, 100) if match[2] else NANOSECONDS)
    if amount > dense:
        raise UserError(f"{key}: {text} is more than the dense model's {shown(LATENCY, dense)}")
    return int(amount)


def shown(quantity: str, amount: int) -> str:
    """An amount of a quantity for people: `1,234`, or `12.34 ms`."""
    return f"{amount / NANOSECONDS:.4g} ms" if quantity == LATENCY else f"{amount:,}"


def as_number(quantity: str, amount: int) -> int | float:
    """The same for a JSON document: a whole number, or milliseconds."""
    return round(amount / NANOSECONDS, 4) if quantity == LATENCY else amount
