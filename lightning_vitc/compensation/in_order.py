"""A dense network pruned and compensated layer by layer, each by what it gets to see in the network pruned so far.

The streams of the images are carried along from block to block, so that no layer is run from the pixels anew; beside
them the moments of one layer are held.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.budget.masks import ATTN, MLP, Masks
from lightning_vitc.budget.prunable import kept_of, stay_without_branches
from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.folding import Fold, fold
from lightning_vitc.compensation.moments import Moments, watched
from lightning_vitc.compensation.outlets import Outlet, Place, kept_pieces, places_of, stream_dim, stream_rows
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.spec import ArchSpec


def compensated(
    network: Backbone, masks: Masks, calibration: Calibration, how: Fold = "regression", ridge: float = 1e-3
) -> Backbone:
    """The network that is left, as a backbone of its own; without a piece gone its weights are the same.

    Args:
        network: dense, in evaluation mode; not changed.
        masks: what stays.
        calibration: the images.
        how: what becomes of that which goes.
        ridge: of the mean variance of the pieces that stay.
    """
    return InOrder(network, masks, calibration, how, ridge).run()


class InOrder:
    """One pass over the blocks; the copy keeps its shape, with zeros where pieces have gone."""

    def __init__(self, network: Backbone, masks: Masks, calibration: Calibration, how: Fold, ridge: float):
        self.network, self.masks, self.calibration = deepcopy(network).eval(), masks, calibration
        self.how, self.ridge = how, ridge
        self.spec, self.device = network.spec, next(network.parameters()).device
        self.places, self.own = set(places_of(self.spec)), stay_without_branches(self.spec)
        self.streams: list[Tensor] = []
        self.last: Place | None = None  # the outlet right before, with nothing between that and the stream of now
        self.hooks: list[Any] = []  # on inner norms

    @torch.no_grad()
    def run(self) -> Backbone:
        """What is left; `streams` are then those behind its last block."""
        self.streams = [self.network.stem(images.to(self.device)) for images in self.calibration.batches.values()]
        starts = {sum(self.spec.depths[:stage]): stage for stage in range(len(self.spec.depths))}
        for number, (own, running) in enumerate(zip(self.own, self.masks.branches.tolist(), strict=True)):
            if number in starts:
                self._advance(lambda x, stage=starts[number]: self.network.enter(stage, x))  # type: ignore[misc]
            if number in starts or own:
                self.last = None
            if any(running):
                self._prune(number, running)
            else:
                self._remove(number)
            self._advance(self._block(number))
            if self.spec.blocks[number].branches[MLP].kind == "basic":  # type: ignore[union-attr]
                self.last = None  # a ReLU stands behind it
        for hook in self.hooks:
            hook.remove()
        return compact_backbone(self.network, kept_of(self.spec, self.masks)).eval()

    def _prune(self, number: int, running: list[bool]) -> None:
        """A block that stays, with one branch or both."""
        for position, branch in enumerate(self.spec.blocks[number].branches):
            place = number, position
            if branch is None:
                continue
            if not running[position]:
                self._drop(place)
                continue
            if place in self.places:
                self._compensate(place)
            self.last = place

    def _advance(self, function: Callable[[Tensor], Tensor]) -> None:
        self.streams = [function(x) for x in self.streams]

    def _block(self, number: int) -> Callable[[Tensor], Tensor]:
        return self.network.running()[number]

    def _compensate(self, place: Place) -> None:
        """Prune a branch, and fold what goes into what stays."""
        left = kept_pieces(self.spec, self.masks, place)
        if left.all():
            return
        outlet, kept = Outlet.of(self.network, place), left.nonzero().flatten().to(self.device)
        norm = None if outlet.inner is None else _partial(self.spec, outlet.inner, kept)
        moments = Moments(len(left), len(kept), self.device, apart=norm is not None)
        small: list[Tensor] = []

        def see(what: str, entered: Tensor) -> None:
            if what == "norm":
                small.append(norm(entered)[..., kept])  # type: ignore[misc]
            else:
                rows = outlet.rows(entered)
                moments.add(rows, rows[:, kept] if norm is None else outlet.rows(small.pop()))

        modules = {"outlet": outlet.layer} | ({} if norm is None else {"norm": outlet.inner})
        block = self._block(place[0])
        with watched(modules, see):
            for x in self.streams:
                block(x)
        fold(outlet, kept, moments.joint(self.calibration, kept), self.how, self.ridge)
        if norm is not None:
            self.hooks.append(outlet.inner.register_forward_hook(lambda _, inputs, __: norm(inputs[0])))

    def _remove(self, number: int) -> None:
        """Let a block add nothing, and what is before it what that has added on average."""
        self._add(self._mean_added(number), stream=True)
        for position, branch in enumerate(self.spec.blocks[number].branches):
            if branch is not None:
                Outlet.of(self.network, (number, position)).silence()

    def _drop(self, place: Place) -> None:
        """The same of one branch of a block whose other one stays."""
        outlet = Outlet.of(self.network, place)
        moments = Moments(outlet.layer.weight.shape[1], 0, self.device)
        with watched({place: outlet.layer}, lambda _, entered: moments.add(rows := outlet.rows(entered), rows[:, :0])):
            for x in self.streams:
                self._block(place[0])(x)
        mean = moments.joint(self.calibration, torch.empty(0, dtype=torch.long, device=self.device)).mean
        self._add(outlet.added(mean), stream=place[1] == ATTN)
        outlet.silence()

    def _add(self, constant: Tensor, stream: bool) -> None:
        """Into the bias of the last outlet before, where nothing is between; and to the stream, if that is behind it.

        Where there is no such outlet (in front of the first block of a stage, behind the ReLU of a ResNet's blocks,
        behind the positions that a UniFormer's block adds whatever is left of it), the mean is lost.
        """
        outlet = None if self.last is None or self.how == "none" else Outlet.of(self.network, self.last)
        if outlet is None or not outlet.can_shift:
            return
        outlet.shift_stream(constant)
        if stream:
            grid = (-1, 1, 1) if stream_dim(self.spec) == 1 else (-1,)
            self._advance(lambda x: x + constant.to(x).view(grid))

    def _mean_added(self, number: int) -> Tensor:
        """[D] over the images of all processes."""
        count = torch.zeros(1, dtype=torch.float64, device=self.device)
        total = torch.zeros(self.spec.width_at(number), dtype=torch.float64, device=self.device)
        block = self._block(number)
        for x in self.streams:
            rows = stream_rows(self.spec, block(x) - x).double()
            total += rows.sum(0)
            count += len(rows)
        self.calibration.total(total, count)
        return total / count


def _partial(spec: ArchSpec, norm: Any, kept: Tensor) -> Callable[[Tensor], Tensor]:
    """A norm of the pieces that are left alone, [..., P] -> [..., P] with zeros in the place of the others."""
    weight, bias = norm.weight[kept], None if getattr(norm, "bias", None) is None else norm.bias[kept]

    def normalized(x: Tensor) -> Tensor:
        left = x[..., kept]
        if spec.options.norm == "rms":
            found = F.rms_norm(left, (len(kept),), weight, norm.eps)
        else:
            found = F.layer_norm(left, (len(kept),), weight, bias, norm.eps)
        return torch.zeros_like(x).index_copy(-1, kept, found)

    return normalized
