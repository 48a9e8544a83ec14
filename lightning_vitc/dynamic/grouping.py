"""Group-level gates: images that decide together in training, as those of an inference batch will.

B images of a mini-batch. The paper splits a batch "recursively by log2" and compares with fixed and random groups;
sizes that are no power of two, and what random means, are ours.
"""

import math
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.transfer import sent

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
        order = torch.tensor([*(image for image in range(batch) if image not in single), *per_sample])
        counts = torch.tensor([*sizes, *[1] * len(per_sample)])
        member = torch.empty(batch, dtype=torch.long)
        member[order] = torch.arange(len(counts)).repeat_interleave(counts)
        self.member = sent(member, device)  # [B], its group
        self.counts = sent(counts, device)[:, None]
        counted = torch.tensor(per_sample if per_process else range(batch), dtype=torch.long)
        self._counted, self._per_process = sent(counted, device), per_process or batch
        if noise is not None:
            noise = noise[order[counts.cumsum(0) - counts]]
            noise[len(sizes) :] = 0
            noise = sent(noise, device)
        self.noise = noise
        self.run: dict[tuple[int, int], Tensor] = {}
        self.logits: dict[tuple[int, int], Tensor] = {}  # of every image

    def decide(self, block: int, branch: int, logits: Tensor, temperature: float) -> Tensor:
        """Hard gates [B] of 0 and 1 with the gradient of the soft ones (straight-through Gumbel-softmax).

        Args:
            block, branch: whose gate; noted in `run`.
            logits: (skip, run) of every image, [B, 2]; averaged over groups.
            temperature: of the softmax.
        """
        self.logits[block, branch] = logits = logits.float()
        mean = logits.new_zeros(len(self.counts), 2).index_add(0, self.member, logits) / self.counts
        if self.noise is not None:
            mean = mean + self.noise[:, block, branch]
        gate = straight_through(mean, temperature)[self.member]
        self.run[block, branch] = gate
        return gate

    def mean_run(self, depth: int) -> Tensor:
        """Share of the images for which each branch runs, [L, 2], differentiable; 1 where there is no gate."""
        return self._rates({unit: gate.mean() for unit, gate in self.run.items()}, depth)

    def mean_run_per_sample(self, depth: int, temperature: float) -> Tensor:
        """The same of the images that decide by their own logits without noise; where none does, of all as if.

        The mean over processes is that over all of their images, however many of them each process has.
        """
        own = {
            unit: straight_through(logits[self._counted], temperature).sum() / self._per_process
            for unit, logits in self.logits.items()
        }
        return self._rates(own, depth)

    def _rates(self, rates: dict[tuple[int, int], Tensor], depth: int) -> Tensor:
        one = self.counts.new_ones((), dtype=torch.float32)
        return torch.stack([rates.get(unit, one) for unit in units(depth)]).view(depth, 2)


def straight_through(logits: Tensor, temperature: float) -> Tensor:
    """Hard gates [G] of 0 and 1 by the logits (skip, run) [G, 2], with the gradient of the softmax."""
    soft = F.softmax(logits / temperature, dim=-1)[:, 1]
    hard = (logits[:, 1] > logits[:, 0]).float()
    return hard - soft.detach() + soft


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
