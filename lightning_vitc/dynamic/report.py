"""The end of a run with gates: expected cost within the budget, run rates by block and class, pictures."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lightning_vitc.backbone import Backbone
from lightning_vitc.budget.target import LATENCY, as_number
from lightning_vitc.dynamic.attaching import lower
from lightning_vitc.dynamic.costs import DynamicCosts
from lightning_vitc.dynamic.latency import WORST, within_latency
from lightning_vitc.dynamic.moving import Moving
from lightning_vitc.dynamic.pictures import write_pictures
from lightning_vitc.dynamic.rates import RunRates
from lightning_vitc.dynamic.skipping import noting_decisions
from lightning_vitc.dynamic.targets import DynamicTargets

if TYPE_CHECKING:
    from lightning_vitc.training.pipeline import Pipeline

SHOWN = 24  # cheapest and dearest images in the picture


class RateEvaluation(LightningModule):
    """Runs a network with gates over images and notes what ran, for which class, and the extreme images.

    Attributes:
        rates: of `RunRates.compute`, after the test.
        top1: in percent, after the test.
        extremes: the cheapest and the dearest images, [<= SHOWN, C, H, W] each, and their MACs.
    """

    def __init__(self, network: Backbone, targets: DynamicTargets):
        super().__init__()
        self.network, self.costs = network, DynamicCosts.of(network.spec)
        self.budgeted = targets.dynamic_costs(network.spec)
        self.counts = RunRates(network.spec.num_classes, network.spec.depth)
        self.correct = MulticlassAccuracy(network.spec.num_classes, average="micro")
        self.rates: dict[str, Tensor] = {}
        self.extremes: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self) -> None:
        """Forget another test."""
        self.extremes = []
        self.counts.reset()
        self.correct.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count, and keep the extreme images."""
        images, targets = batch
        with noting_decisions(self.network) as decisions:
            self.correct.update(self.network(images), targets)
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
        self.top1 = round(100 * float(self.correct.compute()), 4)
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

    A network whose mean image is beyond the budget has gates moved by the same amount until it is within (ours:
    L_res only pulls towards the target); one that is held to a latency also runs more, where it is below. What was
    measured is `gates.json`, accuracy before and after included.
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
    facts = run.record("gates", lambda: _facts(moving, shift, targets) | latency)
    if evaluation is None:
        lower(network, facts["shift"], facts.get("moved_gates"))
    return {key: facts[key] for key in ("expected_macs", "worst_macs", LATENCY, WORST) if key in facts}


def _facts(moving: Moving, shift: float, targets: DynamicTargets) -> dict[str, Any]:
    evaluation = moving.evaluation
    spec = evaluation.network.spec
    by_class = [None if rates.isnan().any() else rates.tolist() for rates in evaluation.rates["by_class"]]
    return {
        "shift": shift,
        "moved_gates": list(moving.which),
        "val_top1": {"trained": moving.top1[0.0], "moved": moving.top1[shift]},
        "expected_macs": round(evaluation.expected),
        "worst_macs": evaluation.costs.worst,
        f"target_{targets.quantity}": as_number(targets.quantity, targets.expected),
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
