"""Holding a network with gates to its budget: its gates are moved, as little as that takes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning_vitc.networks.gates.attaching import gates_of, lower
from lightning_vitc.pipeline.trainers import test_trainer

if TYPE_CHECKING:
    from lightning_vitc.dynamic.rate_evaluation import RateEvaluation
    from lightning_vitc.pipeline.pipeline import Pipeline

FIRST, LARGEST = 0.0625, 16.0  # shifts of the gates' logits
STEPS, CLOSE = 8, 0.005  # of the bisection; how far below the limit is good enough
SLACK = 0.03  # how far below it a network may stay that is to spend it
BEYOND = 2.0**40  # a shift by which every gate of finite weights skips


class Moving:
    """Moves gates of a network by the same amount from where their training left them.

    Those move that decide by the image. A gate that decides alike for all may stand on the edge, where a small shift
    turns its branch over for every image; such gates move only where the others do not get to the limit.

    Attributes:
        which: of the gates, in order, are moved.
        top1: of the validation images, in percent, by the shifts that were tried.
    """

    def __init__(self, run: "Pipeline", evaluation: "RateEvaluation"):
        self.run, self.evaluation = run, evaluation
        self._starts = [gate.last.bias.detach().clone() for gate in gates_of(evaluation.network)]
        self.which = (True,) * len(self._starts)
        self.top1: dict[float, float] = {}
        self._costs: dict[float, float] = {}
        self._at: float | None = None
        self.to(0.0)
        rates = evaluation.rates["all"].tolist()
        self._deciding = tuple(0 < rates[block][branch] < 1 for block, branch in evaluation.gated)

    def to(self, shift: float) -> None:
        """Leave the gates there; the evaluation then knows what the validation images do."""
        if shift == self._at:
            return
        for gate, start in zip(gates_of(self.evaluation.network), self._starts, strict=True):
            gate.last.bias.data.copy_(start)
        lower(self.evaluation.network, shift, self.which)
        images = self.run.data.loader_of("validation")
        test_trainer(self.run.experiment, limit_test_batches=1.0).test(self.evaluation, images, verbose=False)
        self._at, self._costs[shift], self.top1[shift] = shift, self.evaluation.spent, self.evaluation.top1

    def cost(self, shift: float) -> float:
        """Of the mean validation image."""
        if shift not in self._costs:
            self.to(shift)
        return self._costs[shift]

    def within(self, limit: int, spend: bool = False) -> float:
        """To an expected cost that is within the limit.

        Args:
            limit: of the mean validation image.
            spend: make a network run more that is well below the limit; else it is left as it is.
        """
        if self.cost(0.0) > limit:
            self._choose(lambda: self.cost(BEYOND) <= limit)
        elif spend:
            self._choose(lambda: self.cost(-LARGEST) >= limit)
        shift = closest_within(self.cost, limit, spend)
        self.to(shift)
        return shift

    def _choose(self, reaches: Callable[[], bool]) -> None:
        """Move the gates that decide by the image, or all where those do not reach far enough."""
        self.choose(self._deciding)
        if not reaches():
            self.choose((True,) * len(self._deciding))

    def choose(self, which: tuple[bool, ...]) -> None:
        """These gates are moved from now on."""
        if which != self.which:
            self.which, self._at = which, None
            self._costs, self.top1 = {0.0: self._costs[0.0]}, {0.0: self.top1[0.0]}


def closest_within(expected: Callable[[float], float], limit: float, spend: bool = False) -> float:
    """A small shift whose cost is at most the limit, and close to it.

    The cost need not fall with the shift: a branch that is skipped changes what the gates after it see. So the search
    goes outwards from where training left the gates and ends at the first crossing it finds, by bisection.

    Args:
        expected: the cost at a shift down.
        limit: of the cost.
        spend: move a network up that is well below the limit. Where even the largest shift stays there, it is not
            moved.

    Raises:
        RuntimeError: where even skipping everything is beyond the limit, which planning refuses.
    """

    def fits(shift: float) -> bool:
        costs[shift] = expected(shift)
        return costs[shift] <= limit

    costs: dict[float, float] = {}
    below = fits(0.0)
    if below and not (spend and costs[0.0] < (1 - SLACK) * limit):
        return 0.0
    inner, outer = 0.0, -FIRST if below else FIRST
    while not _close(costs, limit) and fits(outer) == below:
        if below and outer <= -LARGEST and not _close(costs, limit):
            return 0.0
        if outer > BEYOND:
            raise RuntimeError(f"gates that skip everything still cost {costs[outer]:,.0f}, beyond the {limit:,.0f}")
        inner, outer = outer, 2 * outer
    high, low = max(inner, outer), min(inner, outer)
    for _ in range(STEPS):
        if _close(costs, limit):
            break
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return max((shift for shift, cost in costs.items() if cost <= limit), key=lambda shift: (costs[shift], -abs(shift)))


def _close(costs: dict[float, float], limit: float) -> bool:
    return any((1 - CLOSE) * limit <= cost <= limit for cost in costs.values())
