"""Draws the widths a training step runs (Scala's Stable Sampling), the same on every rank."""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.schema import bounded

Sampling = Literal["paper", "official_bins", "uniform"]


@dataclass
class Arguments:
    """Keys of `callbacks.width_sampling:`."""

    sampling: Literal["paper", "official_bins", "uniform"] = "paper"
    full_warmup_epochs: int = bounded(0, ge=0)  # epochs at the start that train the full width only
    seed: int = bounded(0, ge=0)


class HasWidths(Protocol):
    """What a module offers to have its widths sampled."""

    grid: list[Fraction]
    widths: Sequence[Fraction]


class WidthSampling(Callback):
    """Sets `widths` of the module before each step: the full one first, then narrower ones.

    The draw is a function of (seed, optimizer step) alone, so it is equal on all ranks and after a resume.

    Args:
        sampling: see `draw_widths`.
        full_warmup_epochs: epochs at the start in which only the full width is trained.
        seed: of the draw.
    """

    def __init__(self, sampling: Sampling = "paper", full_warmup_epochs: int = 0, seed: int = 0):
        self.sampling, self.full_warmup_epochs, self.seed = sampling, full_warmup_epochs, seed

    @staticmethod
    def serves(module: Any) -> bool:
        """Whether the module has widths to sample; a run's other stages train without this callback."""
        return hasattr(module, "grid")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a training that ends before any narrow width is trained."""
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        if 0 < trainer.estimated_stepping_batches <= self.full_warmup_epochs * epoch:
            warnings.warn(
                f"method.full_warmup_epochs={self.full_warmup_epochs} lasts as long as the training: "
                "no narrow width is trained; set it to 0 for a short run",
                stacklevel=2,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw for the coming step; the micro-batches of an accumulated step share the draw."""
        module: HasWidths = pl_module  # type: ignore[assignment]
        if trainer.current_epoch < self.full_warmup_epochs:
            module.widths = (module.grid[-1],)
        else:
            module.widths = draw_widths(module.grid, self.sampling, self.seed, trainer.global_step)


def draw_widths(grid: Sequence[Fraction], sampling: Sampling, seed: int, step: int) -> tuple[Fraction, ...]:
    """Widths l, m2, m1, s of one step (Zhang et al., NeurIPS 2024, Section 3.3), descending.

    Args:
        grid: every width, ascending from s to l.
        sampling: `paper`: m1 uniform over the grid in (s, m] and m2 over (m, l), m = (s + l) / 2;
            `official_bins`: the midpoint m belongs to m2's bin; `uniform`: two draws from (s, l), which may be equal.
        seed: of the draw.
        step: optimizer step; the draw depends on nothing else.
    """
    smallest, full = grid[0], grid[-1]
    between, middle = grid[1:-1], (smallest + full) / 2
    generator = random.Random(f"widths {seed} {step}")
    if sampling == "uniform":
        bins: list[Sequence[Fraction]] = [between, between]
    elif sampling == "official_bins":
        bins = [[w for w in between if w < middle], [w for w in between if w >= middle]]
    else:
        bins = [[w for w in between if w <= middle], [w for w in between if w > middle]]
    drawn = [generator.choice(bin) for bin in bins if bin]
    return (full, *sorted(drawn, reverse=True), smallest)
