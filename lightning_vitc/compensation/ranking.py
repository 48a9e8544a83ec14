"""How much every piece and every block does to a network, on a few images without labels: one ranking for all
budgets.

Legend: a_i piece i of a branch at a position of an image, w_i the columns by which the outlet adds it to the stream,
as far as gains and batch norms let it through; x the stream behind the block, d = x - (what entered) all that the
block adds; f the features of an image, of F numbers. E is the mean over all positions of all images.

- `energy`: of what is added, in shares of the stream's. Piece: E a_i² |w_i|² / E |x|²; block: E |d|² / E |x|².
- `variance`: the same of what is left when the mean is folded into a bias: Var a_i |w_i|² / E |x|²; E |d - E d|² / E
  |x|².
- `sensitivity`: the squared change of a feature, to first order, where the piece is held at its mean. With the
  gradient g = d(v · f) / d a_i, v of random signs, it is E_image E_v (sum over positions of g (a_i - E a_i))² / F,
  which has the squared length of that change as its expectation; block: likewise with g = d(v · f) / dx and d - E d.
  This is the squared first-order term of Molchanov et al. (CVPR 2019, arXiv 1906.10771), of features in the place of
  a loss.

Energies relative to the stream compare over layers, since the norms behind it divide by its length; sensitivities
compare as they are. What they are weighed against, their cost, is the projection's business. Of a convolution of
several pixels |w_i|² is the sum over these, as if neighbors were independent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_vitc.budget.masks import ATTN, MLP
from lightning_vitc.budget.stacks import joined, stacks_of
from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.moments import watched
from lightning_vitc.compensation.outlets import Outlet, Place, places_of, stream_rows
from lightning_vitc.compensation.sensitivity import sensitivities
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec

Criterion = Literal["energy", "variance", "sensitivity"]


@dataclass(frozen=True)
class Ranking:
    """Importances in single precision, on the CPU.

    Attributes:
        dims: [L, H, d] of value dimensions; those of a head add up.
        channels: [L, F] of hidden units and inner channels.
        blocks: [L] of whole blocks.
    """

    dims: Tensor
    channels: Tensor
    blocks: Tensor


@dataclass
class Sums:
    """Of one pass: per branch what enters its outlet, per block what it adds.

    Attributes:
        pieces: by place, E a [P] and E a² [P].
        added: by block, E d [D], in the shape of a position of the stream.
        energy: by block, E |d|² and E |x|².
    """

    pieces: dict[Place, tuple[Tensor, Tensor]]
    added: dict[int, Tensor]
    energy: dict[int, Tensor]


def rank(network: Backbone, calibration: Calibration, criterion: Criterion, seed: int = 0) -> Ranking:
    """Rank a dense network in evaluation mode; the same in all processes.

    Args:
        network: not changed.
        calibration: the images.
        criterion: what counts, see the head of this file.
        seed: of the random signs of `sensitivity`.

    Raises:
        UserError: for a network whose blocks or heads differ within a stage.
    """
    outlets = {place: Outlet.of(network, place) for place in places_of(network.spec)}
    sums = first_pass(network, calibration, outlets)
    if criterion == "sensitivity":
        means = {place: mean for place, (mean, _) in sums.pieces.items()}
        return _shaped(network.spec, *sensitivities(network, calibration, outlets, means, sums.added, seed))
    centered = criterion == "variance"
    pieces, blocks = {}, {}
    for place, (mean, square) in sums.pieces.items():
        spread = square - mean.square() if centered else square
        pieces[place] = spread.clamp_min(0) * outlets[place].strengths / sums.energy[place[0]][1]
    for number, (added, stream) in sums.energy.items():
        blocks[number] = (added - centered * sums.added[number].square().sum()) / stream
    return _shaped(network.spec, pieces, blocks)


@torch.no_grad()
def first_pass(network: Backbone, calibration: Calibration, outlets: dict[Place, Outlet]) -> Sums:
    """Means and energies in double precision, over the images of all processes."""
    device = next(network.parameters()).device
    sums: dict[Any, Tensor] = {
        place: _zeros(2, one.layer.weight.shape[1], device=device) for place, one in outlets.items()
    }
    counts: dict[Any, Tensor] = {key: _zeros(1, device=device) for key in (*outlets, *range(network.spec.depth))}
    added = [_zeros(network.spec.width_at(number), device=device) for number in range(network.spec.depth)]
    energies = [_zeros(2, device=device) for _ in added]

    def see(place: Place, entered: Tensor) -> None:
        rows = outlets[place].rows(entered).double()
        sums[place][0] += rows.sum(0)
        sums[place][1] += rows.square().sum(0)
        counts[place] += len(rows)

    def run(number: int, block: Any, x: Tensor) -> Tensor:
        after = block(x)
        stream = stream_rows(network.spec, after).double()
        counts[number] += len(stream)
        energies[number][1] += stream.square().sum()
        if network.blocks[number].keeps_stream:
            change = stream_rows(network.spec, after - x).double()
            added[number] += change.sum(0)
            energies[number][0] += change.square().sum()
        return after

    with watched({place: outlet.layer for place, outlet in outlets.items()}, see):
        for images in calibration.batches.values():
            network.walk(images.to(device), run)
    calibration.total(*sums.values(), *counts.values(), *added, *energies)
    return Sums(
        {place: (sums[place][0] / counts[place], sums[place][1] / counts[place]) for place in outlets},
        {number: one / counts[number] for number, one in enumerate(added)},
        {number: one / counts[number] for number, one in enumerate(energies)},
    )


def _zeros(*shape: int, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=device)


def _shaped(spec: ArchSpec, pieces: dict[Place, Tensor], blocks: dict[int, Tensor]) -> Ranking:
    dims, channels = [], []
    for stack in stacks_of(spec):
        rows = range(stack.start, stack.stop)
        attn, mlp = (list(_of(pieces, rows, position)) for position in (ATTN, MLP))
        dims.append(torch.stack(attn).unflatten(1, (stack.heads, -1)) if attn else torch.zeros(len(stack), 0, 0))
        channels.append(torch.stack(mlp) if mlp else torch.zeros(len(stack), 0))
    of_blocks = torch.stack([blocks[number] for number in range(spec.depth)])
    return Ranking(*(part.float().cpu() for part in (joined(dims), joined(channels), of_blocks)))


def _of(pieces: dict[Place, Tensor], rows: range, position: int) -> Iterator[Tensor]:
    return (pieces[number, position].float().cpu() for number in rows if (number, position) in pieces)
