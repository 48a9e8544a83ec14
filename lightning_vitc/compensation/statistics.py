"""What is stored of a dense network's pieces, so that any smaller one is compensated without another look at images.

Of every branch the means and covariances of its pieces, of every block the mean of what it adds, all as the dense
network has them. A network that is compensated in order sees other inputs behind its first pruned layer; the two
differ by that."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vitc.budget.masks import ATTN, MLP, Masks
from lightning_vitc.budget.prunable import kept_of, stay_without_branches
from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.folding import Fold, Joint, fold
from lightning_vitc.compensation.moments import Moments, watched
from lightning_vitc.compensation.outlets import Outlet, Place, kept_pieces, places_of
from lightning_vitc.compensation.ranking import first_pass
from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.spec import ArchSpec


@dataclass(frozen=True)
class Statistics:
    """In single precision, on the CPU.

    Attributes:
        means: of the pieces of every branch, [P].
        covariances: of every branch, [P, P].
        added: of every block the mean of what it adds, [D].
    """

    means: dict[Place, Tensor]
    covariances: dict[Place, Tensor]
    added: dict[int, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """By names; `of_tensors` reads them."""
        found = {f"mean/{number}.{position}": one for (number, position), one in self.means.items()}
        found |= {f"covariance/{number}.{position}": one for (number, position), one in self.covariances.items()}
        return found | {f"added/{number}": one for number, one in self.added.items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Statistics":
        """Those of `tensors`.

        Raises:
            ValueError: for other names.
        """
        found: dict[str, dict[Any, Tensor]] = {"mean": {}, "covariance": {}, "added": {}}
        for name, tensor in tensors.items():
            kind, _, where = name.partition("/")
            if kind in found:
                place = tuple(int(part) for part in where.split("."))
                found[kind][place if len(place) > 1 else place[0]] = tensor
        return cls(found["mean"], found["covariance"], found["added"])


def must_be_storable(spec: ArchSpec) -> None:
    """Refuse a network whose statistics do not tell those of a smaller one.

    Raises:
        UserError: naming it.
    """
    if spec.has_inner_norms:
        raise UserError(
            f"method.elastic: true; {spec.name} normalizes inside of its branches, so that what is left of a branch "
            "does not follow from statistics; set it to false"
        )


@torch.no_grad()
def measure(network: Backbone, calibration: Calibration) -> Statistics:
    """Of a dense network in evaluation mode, in one pass, over the images of all processes."""
    device = next(network.parameters()).device
    outlets = {place: Outlet.of(network, place) for place in places_of(network.spec)}
    sizes = {place: outlet.layer.weight.shape[1] for place, outlet in outlets.items()}
    added = first_pass(network, calibration, outlets).added
    means, covariances = {}, {}
    for places in _in_turns(list(outlets)):  # not all at once: double precision takes twice the memory
        moments = {place: Moments(sizes[place], sizes[place], device) for place in places}

        def see(place: Place, entered: Tensor, moments: dict[Place, Moments] = moments) -> None:
            rows = outlets[place].rows(entered)
            moments[place].add(rows, rows)

        with watched({place: outlets[place].layer for place in places}, see):
            for images in calibration.batches.values():
                network.forward_features(images.to(device))
        for place in places:
            joint = moments[place].joint(calibration, torch.arange(sizes[place], device=device))
            means[place], covariances[place] = joint.mean.float().cpu(), joint.own.float().cpu()
    return Statistics(means, covariances, {number: one.float().cpu() for number, one in added.items()})


def from_statistics(model: nn.Module, masks: Masks, statistics: Statistics, how: Fold, ridge: float) -> Any:
    """The network that is left of a dense one, plain, in evaluation mode; arguments as of `compensated`.

    Of blocks that go one after another the means are those of the dense network, too.
    """
    pruned: Any = deepcopy(model)
    spec, own = ArchSpec.of(model), stay_without_branches(ArchSpec.of(model))
    places, last = set(places_of(spec)), None
    starts = {sum(spec.depths[:stage]) for stage in range(len(spec.depths))}
    for number, running in enumerate(masks.branches.tolist()):
        last = None if number in starts or own[number] else last
        if not any(running):
            _shift(pruned, last, statistics.added[number], how)
            continue
        for place in _branches(spec, number):
            if running[place[1]]:
                if place in places:
                    _prune(pruned, place, kept_pieces(spec, masks, place), statistics, how, ridge)
                last = place
            else:
                _shift(pruned, last, Outlet.of(pruned, place).added(statistics.means[place].double()), how)
        last = None if spec.blocks[number].branches[MLP].kind == "basic" else last  # type: ignore[union-attr]
    return compact(pruned, kept_of(spec, masks))


def _prune(network: Any, place: Place, left: Tensor, statistics: Statistics, how: Fold, ridge: float) -> None:
    if left.all():
        return
    kept, mean = left.nonzero().flatten(), statistics.means[place].double()
    cross = statistics.covariances[place].double()[:, kept]
    fold(Outlet.of(network, place), kept, Joint(mean, mean[kept], cross, cross[kept]), how, ridge)


def _shift(network: Any, last: Place | None, constant: Tensor, how: Fold) -> None:
    if last is not None and how != "none" and (outlet := Outlet.of(network, last)).can_shift:
        outlet.shift_stream(constant)


def _branches(spec: ArchSpec, number: int) -> Iterator[Place]:
    return ((number, at) for at in (ATTN, MLP) if spec.blocks[number].branches[at] is not None)


def _in_turns(places: list[Place], size: int = 4) -> Iterator[list[Place]]:
    return (places[start : start + size] for start in range(0, len(places), size))
