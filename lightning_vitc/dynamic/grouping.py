"""Group-level gates: images that decide together in training, as those of an inference batch will.

B images of a mini-batch. The paper splits a batch "recursively by log2" and compares with fixed and random groups;
sizes that are no power of two, and what random means, are ours.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_vitc.networks.transfer import sent

GROUPINGS = ("recursive", "avg-32", "avg-8", "random", "sample", "batch")


def group_sizes(batch: int, grouping: str, draw: torch.Generator | None = None) -> list[int]:
    """How many images decide together, in the order of the batch; they add up to it.

    Args:
        batch: B, from 0.
        grouping: `recursive` halves what is left: B/2, B/4, ..., 2, 1, 1; `avg-32` and `avg-8` cut groups of that
            size, the last one smaller; `random` draws powers of two up to B; `sample` decides for each image,
            `batch` for all.
        draw: for `random`.
    """
    if grouping == "recursive":
        sizes, left = [], batch
        while left > 1:
            sizes.append(left // 2)
            left -= left // 2
        return [*sizes, left] if left else sizes
    if grouping == "random":
        sizes, left, powers = [], batch, batch.bit_length()
        while left:
            sizes.append(min(2 ** int(torch.randint(powers, (), generator=draw)), left))
            left -= sizes[-1]
        return sizes
    size = {"sample": 1, "batch": max(1, batch)}.get(grouping) or int(grouping.removeprefix("avg-"))
    return [min(size, batch - start) for start in range(0, batch, size)]


def per_sample_count(end: int, share: float) -> int:
    """How many of the first images of a batch, up to `end`, decide by themselves."""
    return math.floor(end * share + 1e-9)  # 100 * 0.29 is less than 29


def per_sample_positions(first: int, batch: int, share: float) -> list[int]:
    """Which of the images first, ..., first + batch - 1 of a larger batch decide by themselves, counted from `first`.

    They are spread evenly over the larger batch, so that they are the same in whatever parts it comes.
    """
    ends = [per_sample_count(first + image, share) for image in range(batch + 1)]
    return [image for image in range(batch) if ends[image + 1] > ends[image]]


class GroupGates:
    """The decisions of one mini-batch: which images decide together, and the noise of every group.

    The noise belongs to the position of an image in the global batch, and a group takes that of its first image:
    where groups lie within one process, they decide the same however many processes share the batch.

    Args:
        sizes: of the groups, from `group_sizes`.
        noise: Gumbel noise [B, L, 2, 2]; `None` decides by the larger logit.
        device: of the logits.
        per_sample: images that decide by themselves and without noise; the others fill the groups, in order.
        per_process: how many of those the mean process has; 0 where there are none in any.
    """

    def __init__(
        self, sizes: list[int], noise: Tensor | None, device: torch.device, per_sample: Sequence[int] = (),
        per_process: float = 0.0,
    ):  # fmt: skip
        batch, single = sum(sizes) + len(per_sample), set(per_sample)
        others = iter(image for image in range(batch) if image not in single)
        groups = [[next(others) for _ in range(size)] for size in sizes] + [[image] for image in per_sample]
        self._spread: Tensor | None = None  # [B, G], 1 where an image is in a group; `None` where each is alone
        if len(groups) == batch:
            groups.sort()
        else:
            self._spread = sent(_membership(groups, batch), device)
        counted = torch.tensor(per_sample if per_process else range(batch), dtype=torch.long)
        self._counted, self._per_process = sent(counted, device), per_process or batch
        self.noise = None if noise is None else sent(_noise_of(groups, single, noise), device)  # [L, 2, G], run - skip
        self._softened: dict[float, tuple[Tensor | None, Tensor | None]] = {}
        self.run: dict[tuple[int, int], Tensor] = {}
        self.margins: dict[tuple[int, int], Tensor] = {}  # of every image

    def decide(self, block: int, branch: int, margin: Tensor, temperature: float) -> Tensor:
        """Hard gates [B] of 0 and 1 with the gradient of the soft ones (straight-through Gumbel-softmax).

        Args:
            block, branch: whose gate; noted in `run`.
            margin: the logit of running less that of skipping, of every image, [B]; averaged over groups.
            temperature: of the softmax.
        """
        self.margins[block, branch] = margin = margin.float()
        average, noise = self._over(temperature)
        mean = margin / temperature if average is None else torch.mv(average, margin)
        gate = straight_through(mean if noise is None else mean + noise[block, branch])
        self.run[block, branch] = gate = gate if self._spread is None else torch.mv(self._spread, gate)
        return gate

    def mean_run(self, depth: int) -> Tensor:
        """Share of the images for which each branch runs, [L, 2], differentiable; 1 where there is no gate."""
        return self._rates(torch.stack(list(self.run.values())).mean(1) if self.run else None, depth)

    def mean_run_per_sample(self, depth: int, temperature: float) -> Tensor:
        """The same of the images that decide by their own logits without noise; where none does, of all as if.

        The mean over processes is that over all of their images, however many of them each process has.
        """
        margins = torch.stack(list(self.margins.values())).index_select(1, self._counted)
        return self._rates(straight_through(margins / temperature).sum(1) / self._per_process, depth)

    def _over(self, temperature: float) -> tuple[Tensor | None, Tensor | None]:
        """What averages over groups, [G, B], and the noise, both over the temperature."""
        if temperature not in self._softened:
            spread, noise = self._spread, self.noise
            average = None if spread is None else (spread / (temperature * spread.sum(0))).t().contiguous()
            self._softened[temperature] = average, None if noise is None else noise / temperature
        return self._softened[temperature]

    def _rates(self, found: Tensor | None, depth: int) -> Tensor:
        if found is not None and len(found) == 2 * depth:
            return found.view(depth, 2)
        one = torch.ones((), device=self._counted.device)
        rates = {} if found is None else dict(zip(self.run, found.unbind(), strict=True))
        return torch.stack([rates.get(unit, one) for unit in units(depth)]).view(depth, 2)


def straight_through(margin: Tensor) -> Tensor:
    """1 where margins are positive and else 0, with the gradient of their sigmoid, the softmax of two logits."""
    return _StraightThrough.apply(margin)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, margin: Tensor) -> Tensor:
        ctx.save_for_backward(margin)
        return (margin > 0).to(margin.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        soft = ctx.saved_tensors[0].sigmoid()
        return torch.ops.aten.sigmoid_backward(gradient, soft)


def _membership(groups: Sequence[Sequence[int]], batch: int) -> Tensor:
    of_image = {image: number for number, group in enumerate(groups) for image in group}
    member = torch.tensor([of_image[image] for image in range(batch)])
    return (member[:, None] == torch.arange(len(groups))).float()


def _noise_of(groups: Sequence[Sequence[int]], single: set[int], noise: Tensor) -> Tensor:
    """That of every group's first image, and none where an image decides by itself."""
    of_group = noise[torch.tensor([group[0] for group in groups])]
    quiet = torch.tensor([group[0] in single for group in groups])[:, None, None]
    return (of_group[..., 1] - of_group[..., 0]).masked_fill(quiet, 0).permute(1, 2, 0).contiguous()


def units(depth: int) -> list[tuple[int, int]]:
    """(block, branch) of every branch, in order."""
    return [(block, branch) for block in range(depth) for branch in (0, 1)]


def generator_of(seed: int, step: int, micro: int, what: str) -> torch.Generator:
    """Randomness that depends on the seed, the step and the part of its batch alone, the same on every rank."""
    return torch.Generator().manual_seed(zlib.crc32(f"{what} {seed} {step} {micro}".encode()))


def gumbel_noise(batch: int, depth: int, draw: torch.Generator, rank: int = 0, world_size: int = 1) -> Tensor:
    """Gumbel noise [B, L, 2, 2] of this rank's images, cut out of that of the whole batch."""
    uniform = torch.rand(world_size * batch, depth, 2, 2, generator=draw).clamp(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(uniform[rank * batch : (rank + 1) * batch]))
