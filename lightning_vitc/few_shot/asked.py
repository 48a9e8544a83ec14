"""What a budget of blocks asks for, in the terms of all budgets."""

import warnings

from lightning_vitc.budget.target import Target, target_of
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.latency.table import LatencyTable
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import BudgetConfig

COLLAPSE = 40  # percent: beyond this reduction the method is known to fail
PAPER = "dcvit"  # by which MACs are counted with budget.convention=paper


def asked_target(budget: BudgetConfig, spec: ArchSpec, table: LatencyTable | None = None) -> Target:
    """An amount, where no number of blocks is given.

    Raises:
        UserError: where none is given, or it cannot be meant.
    """
    if budget.macs is None and budget.params is None and budget.latency_ms is None:
        raise UserError("budget.macs: not set; give it, such as budget.macs=80%, or budget.drop_blocks=2")
    return target_of(budget, spec, PAPER, table)


def counting_target(budget: BudgetConfig, spec: ArchSpec) -> Target:
    """What a number of blocks (`budget.drop_blocks`) is counted by; its amount is that of the dense network.

    Raises:
        UserError: where an amount is given too, or no block would be left.
    """
    number = budget.drop_blocks or 0
    if budget.macs is not None or budget.params is not None:
        other = "macs" if budget.macs is not None else "params"
        raise UserError(f"budget.drop_blocks: set beside budget.{other}; give one of them")
    if number >= spec.depth:
        raise UserError(
            f"budget.drop_blocks: {number} of {counted(spec.depth, 'block')} leaves none; at most {spec.depth - 1}"
        )
    dense = Target("macs", 0, 1, budget.convention, PAPER).measure(spec)
    return Target("macs", dense, dense, budget.convention, PAPER)


def warn_of_collapse(target: Target) -> None:
    """Of a reduction that ruins a network that sees few images."""
    if 100 * (target.dense - target.amount) > COLLAPSE * target.dense:
        warnings.warn(
            f"budget.{target.quantity}: {share_of(target.amount, target)} removes {100 * (1 - target.ratio):.0f} % of "
            f"the network; compressed with few images it collapses beyond {COLLAPSE} %",
            stacklevel=3,
        )


def share_of(amount: int, target: Target) -> str:
    """An amount, and its share of the dense network."""
    return f"{target.shown(amount)} ({100 * amount / target.dense:.2f} %)"
