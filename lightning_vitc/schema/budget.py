"""The section `budget`."""

from dataclasses import dataclass, field
from typing import Literal

from lightning_vitc.schema.fields import bounded


@dataclass
class MinKeepConfig:
    """The least that pruning leaves."""

    heads: int = bounded(1, gt=0)  # of a block that keeps its attention
    dims: int = bounded(1, gt=0)  # value dimensions of a head that is kept
    channels: int = bounded(1, gt=0)  # of a block that keeps its MLP
    blocks: int | None = bounded(None, gt=0)  # default: the budget's share of the blocks, rounded up


@dataclass
class BudgetConfig:
    """What the compressed model may cost: one of `macs` and `params`, as 50%, 2.3G or a whole number, or `latency_ms`.

    A latency is that of eager PyTorch in fp32 on `device` with the experiment's `threads`.
    """

    macs: int | float | str | None = None  # no fraction is taken: it is answered with the share that may be meant
    params: int | float | str | None = None
    static: int | float | str | None = None  # USDC: MACs of the resident model, `macs` being the expected ones
    latency_ms: int | float | str | None = bounded(None, gt=0)  # measured, of a batch: milliseconds, or 60% of dense
    device: Literal["cpu", "cuda"] = "cpu"  # where latency_ms counts
    batch_size: int = bounded(1, gt=0)  # with which latency_ms counts
    drop_blocks: int | None = bounded(None, gt=0)  # DC-ViT, PRACTISE: the MACs without so many whole blocks
    convention: Literal["full", "paper"] = "full"  # paper: as the method's authors count
    min_keep: MinKeepConfig = field(default_factory=MinKeepConfig)
    round_to: int | None = bounded(None, gt=0)  # channels and value dimensions are multiples of it; default: 8, or 1
