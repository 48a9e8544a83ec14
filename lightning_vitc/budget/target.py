"""Budgets as users write them: `50%` of the dense model, `2.3G`, `350M`, or a whole number."""

import re
from dataclasses import dataclass
from fractions import Fraction

from lightning_vitc import costs
from lightning_vitc.architecture import ArchSpec
from lightning_vitc.errors import UserError
from lightning_vitc.schema import BudgetConfig

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Target:
    """An upper limit on one quantity of the compressed model.

    Attributes:
        quantity: `macs` or `params`.
        amount: the limit, never exceeded.
        dense: what the dense model has.
        convention: how MACs are counted, and `method`: by whose paper.
    """

    quantity: str
    amount: int
    dense: int
    convention: str = "full"
    method: str = costs.DEFAULT_PAPER

    @property
    def ratio(self) -> float:
        """The limit as a share of dense."""
        return self.amount / self.dense

    def measure(self, spec: ArchSpec) -> int:
        """The quantity of a network."""
        return costs.params(spec) if self.quantity == "params" else costs.macs(spec, self.convention, self.method)


def target_of(budget: BudgetConfig, spec: ArchSpec, method: str) -> Target:
    """What the `budget` section asks of a dense network.

    Args:
        budget: the section; exactly one of `macs` and `params` is set.
        spec: the dense network.
        method: name of the method, whose paper `convention=paper` counts by.

    Raises:
        UserError: where none or both are set, or the amount is no amount or more than dense.
    """
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


def parse_amount(text: str | int, dense: int, key: str) -> int:
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
