"""The end of a run with gates: expected cost within the budget, run rates by block and class, pictures."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_vitc.backbone import Backbone
from lightning_vitc.budget.target import LATENCY
from lightning_vitc.dynamic.attaching import gates_of, lower
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.latency import WORST, within_latency
from lightning_vitc.dynamic.pictures import write_pictures
from lightning_vitc.dynamic.rates import RunRates
from lightning_vitc.dynamic.skipping import noting_decisions
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.training.trainers import test_trainer

if TYPE_CHECKING:
    from lightning_vitc.training.pipeline import Pipeline

SHOWN = 24  # cheapest and dearest images in the picture
FIRST, LARGEST = 0.25, 16.0  # shifts of the gates' logits
STEPS, CLOSE = 8, 0.005  # of the bisection; how far below the limit is good enough
BEYOND = 2.0**40  # a shift by which every gate of finite weights skips


class RateEvaluation(LightningModule):
    """Runs a network with gates over images and notes what ran, for which class, and the extreme images.

    Attributes:
        rates: of `RunRates.compute`, after the test.
        extremes: the cheapest and the dearest images, [<= SHOWN, C, H, W] each, and their MACs.
    """

    def __init__(self, network: Backbone, targets: DynamicTargets):
        super().__init__()
        self.network, self.costs = network, DynamicCosts.of(network.spec)
        self.budgeted = targets.dynamic_costs(network.spec)
        self.counts = RunRates(network.spec.num_classes, network.spec.depth)
        self.rates: dict[str, Tensor] = {}
        self.extremes: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self) -> None:
        """Forget another test."""
        self.extremes = []
        self.counts.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count, and keep the extreme images."""
        images, targets = batch
        with noting_decisions(self.network) as decisions:
            self.network(images)
        ran = torch.stack(decisions, dim=1).unflatten(1, (-1, 2))
        self.counts.update(ran, targets)
        macs = self.costs.expected(ran.float())
        before = self.extremes or [(images[:0], macs[:0])] * 2
        self.extremes = [
            _most(torch.cat([kept, images]), torch.cat([cost, macs]), largest)
            for (kept, cost), largest in zip(before, (False, True), strict=True)
        ]

    def on_test_epoch_end(self) -> None:
        """Sum up over processes."""
        self.rates = {name: value.double().cpu() for name, value in self.counts.compute().items()}
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather([_filled(*most) for most in self.extremes])
            self.extremes = [
                _most(images[~macs.isnan()], macs[~macs.isnan()], largest)
                for (images, macs), largest in zip(gathered, (False, True), strict=True)
            ]
        self.extremes = [(images.cpu(), macs.cpu()) for images, macs in self.extremes]

    @property
    def expected(self) -> float:
        """MACs of the mean image."""
        return float(self.costs.expected(self.rates["all"]))

    @property
    def spent(self) -> float:
        """The same in what the budget counts."""
        return float(self.budgeted.expected(self.rates["all"]))


def settled(run: "Pipeline", network: Backbone, targets: DynamicTargets) -> dict[str, Any]:
    """Hold the network to its expected budget on the validation split, once; and the columns of its row.

    All gates are moved by the same amount until the mean of the images is within the budget and close to it (ours:
    L_res only pulls towards the target). What was measured is `gates.json`.
    """
    evaluation = None
    if not run.read_only and not (run.directory.path / "gates.json").exists():  # by all processes together
        evaluation = RateEvaluation(network, targets)
        moving = Moving(run, evaluation)
        latency: dict[str, Any] = {}
        if targets.table is None:
            shift = moving.within(targets.expected)
        else:
            shift, latency = within_latency(run, moving, targets)
        if run.processes.rank == 0:  # before the record, which says that all of this is done
            write_pictures(run, evaluation.rates, evaluation.extremes)
    facts = run.record("gates", lambda: _facts(evaluation, shift, targets) | latency)
    if evaluation is None:
        lower(network, facts["shift"])
    return {key: facts[key] for key in ("expected_macs", "worst_macs", LATENCY, WORST) if key in facts}


class Moving:
    """Moves all gates of a network by the same amount from where their training left them."""

    def __init__(self, run: "Pipeline", evaluation: RateEvaluation):
        self.run, self.evaluation = run, evaluation
        self._starts = [gate.last.bias.detach().clone() for gate in gates_of(evaluation.network)]

    def to(self, shift: float) -> float:
        """What the mean image then costs; the evaluation knows more."""
        for gate, start in zip(gates_of(self.evaluation.network), self._starts, strict=True):
            gate.last.bias.data.copy_(start)
        lower(self.evaluation.network, shift)
        images = self.run.data.loader_of("validation")
        test_trainer(self.run.experiment).test(self.evaluation, images, verbose=False)
        return self.evaluation.spent

    def within(self, limit: int) -> float:
        """To the expected cost that is within the limit, and close to it where that is possible."""
        shift = closest_within(self.to, limit)
        self.to(shift)  # leaves the gates there, and what they do on record
        return shift


def closest_within(expected: Callable[[float], float], limit: float) -> float:
    """A shift whose cost is at most the limit, by bisection; the cost falls with the shift.

    It stops at the first that is within `CLOSE` of the limit; where even the largest shift down stays below it,
    nothing is moved.

    Raises:
        RuntimeError: where even skipping everything is beyond the limit, which planning refuses.
    """

    def fits(shift: float) -> bool:
        costs[shift] = expected(shift)
        return costs[shift] <= limit

    costs: dict[float, float] = {}
    direction = -1 if fits(0.0) else 1
    inner, outer = 0.0, direction * FIRST
    while not _close(costs, limit) and (fits(outer) if direction < 0 else not fits(outer)):
        if direction < 0 and outer <= -LARGEST:
            return 0.0
        if outer > BEYOND:
            raise RuntimeError(f"gates that skip everything still cost {costs[inner]:,.0f}, beyond the {limit:,.0f}")
        inner, outer = outer, 2 * outer
    high, low = max(inner, outer), min(inner, outer)
    for _ in range(STEPS):
        if _close(costs, limit):
            break
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return min(shift for shift, cost in costs.items() if cost <= limit)


def _close(costs: dict[float, float], limit: float) -> bool:
    return any((1 - CLOSE) * limit <= cost <= limit for cost in costs.values())


def _facts(evaluation: RateEvaluation | None, shift: float, targets: DynamicTargets) -> dict[str, Any]:
    assert evaluation is not None
    spec = evaluation.network.spec
    by_class = [None if rates.isnan().any() else rates.tolist() for rates in evaluation.rates["by_class"]]
    return {
        "shift": shift,
        "expected_macs": round(evaluation.expected),
        "worst_macs": evaluation.costs.worst,
        "target_macs": targets.expected,
        "networks": [list(block.gates) for block in spec.blocks],
        "run_rates": evaluation.rates["all"].tolist(),
        "run_rates_by_class": by_class,
    }


def _filled(images: Tensor, macs: Tensor) -> tuple[Tensor, Tensor]:
    """As many on every process; an image that is none costs no number."""
    missing = SHOWN - len(macs)
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(macs, (0, missing), value=torch.nan)


def _most(images: Tensor, macs: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    top = macs.topk(min(SHOWN, len(macs)), largest=largest).indices
    return images[top], macs[top]
