"""Gates that skip blocks, or their branches, for every image alike: learned while sampled, then decided once.

L blocks; G gates a block: 1 skips it whole, 2 skip its attention and its MLP.
"""

import zlib
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.networks.transfer import sent

Unit = Literal["block", "sublayer"]
Cost = Callable[[Tensor], int]  # of the branches [L, 2] that run


class SkipGates(nn.Module):
    """Two logits (skip, run) a gate, trained through straight-through Gumbel-softmax samples.

    The samples depend on the seed and the step alone, so that all ranks skip alike. The gradients of `every`
    steps are averaged into one update, so that a gate is not moved by the noise of a single sample.

    Args:
        depth: L.
        unit: what a gate skips.
        every: optimizer steps between updates.
        seed: of the samples.
        initial: logits (skip, run) of every gate.
        there: [L, 2] which branches there are; all by default.
        necessary: [L] which blocks always run; none by default.
    """

    gradient: Tensor

    def __init__(self, depth: int, unit: Unit, every: int = 50, seed: int = 0,
                 initial: tuple[float, float] = (-1.0, 1.0), there: Tensor | None = None,
                 necessary: Tensor | None = None):  # fmt: skip
        super().__init__()
        self.there = torch.ones(depth, 2, dtype=torch.bool) if there is None else there
        self.necessary = torch.zeros(depth, dtype=torch.bool) if necessary is None else necessary
        self._all_may_go = not self.necessary.any()
        self.unit, self.every, self.seed = unit, every, seed
        self.logits = nn.Parameter(torch.tensor(initial).repeat(depth, 1 if unit == "block" else 2, 1))
        self.register_buffer("gradient", torch.zeros_like(self.logits))

    def probability(self) -> Tensor:
        """That each branch runs, [L, 2], differentiable."""
        chance = self.logits.softmax(-1)[..., 1].expand(-1, 2)
        if self._all_may_go:
            return chance
        return torch.where(self.necessary.to(chance.device)[:, None], 1.0, chance)

    def sample(self, step: int, temperature: float) -> Tensor:
        """Hard gates of a step with the gradient of the soft ones, as the backbone takes them: [L] or [L, 2]."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {step}".encode()))
        uniform = torch.rand(self.logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
        noise = sent(-torch.log(-torch.log(uniform)), self.logits.device)
        soft = F.softmax((self.logits + noise) / temperature, dim=-1)[..., 1]
        return self._shaped((soft > 0.5).float() - soft.detach() + soft)

    def constant(self, value: Tensor | float) -> Tensor:
        """Given gates ([L, 2], or one number), as the backbone takes them; the logits get a gradient of zero.

        So that under DDP every parameter takes part in every step.
        """
        given = value if isinstance(value, Tensor) else self.logits.new_full((), value)
        gates = given.to(self.logits).expand(len(self.logits), 2)
        return self._shaped(gates[:, : self.logits.shape[1]] + 0 * self.logits.sum())

    @torch.no_grad()
    def collect(self, step: int, training: bool) -> None:
        """Before an optimizer step: hand the optimizer the mean gradient of the last `every` steps, or none.

        Args:
            step: number of the optimizer step that follows, from 0.
            training: whether the gates are trained in it.
        """
        gradient, self.logits.grad = self.logits.grad, None
        if not training or gradient is None:
            self.gradient.zero_()
            return
        self.gradient.add_(torch.where(gradient.isfinite().all(), gradient, 0))  # fp16 skips steps that overflow
        if (step + 1) % self.every == 0:
            self.logits.grad = self.gradient / self.every
            self.gradient.zero_()

    @torch.no_grad()
    def decide(self, most: Cost, least: Cost, limit: int, min_blocks: int) -> Tensor:
        """Which branches run, [L, 2] on the CPU: those whose run logit is larger, as far as the budget allows it.

        The likeliest are added while the network is smaller than the budget asks for, the unlikeliest left out
        while no pruning could bring it down to it; of attentions and of MLPs at least `min_blocks` run.

        Args:
            most: the cost of branches that are not pruned.
            least: the cost of branches that are pruned to their minima.
            limit: the budget.
            min_blocks: attentions, and MLPs, that run at least.
        """
        chance = self.probability().float().cpu()
        columns = [[0, 1]] if self.unit == "block" else [[0], [1]]
        units = [
            (block, column) for block in range(len(chance)) for column in columns
            if not self.necessary[block] and self.there[block, column].any()
        ]  # fmt: skip
        units.sort(key=lambda unit: float(chance[unit[0], unit[1][0]]), reverse=True)
        running = (chance > 0.5) & self.there
        for block, column in units:
            few = self._fewest(running) < min_blocks and not bool(running[block, column].any())
            if few or most(running) < limit:
                running[block, column] = self.there[block, column]
        for block, column in reversed(units):
            fewer = running.clone()
            fewer[block, column] = False
            if least(running) > limit and self._fewest(fewer) >= min_blocks:
                running = fewer
        for block, column in units:  # without pruning, what was left out too generously
            more = running.clone()
            more[block, column] = self.there[block, column]
            if most(more) <= limit:
                running = more
        return running

    def _shaped(self, gates: Tensor) -> Tensor:
        return gates.squeeze(1) if self.unit == "block" else gates

    def _fewest(self, running: Tensor) -> int:
        """Attentions or MLPs that run, whichever are fewer: without attention the class token would see no patch."""
        return int(running.sum(0)[self.there.any(0)].min())
