"""How a candidate of DC-ViT is compressed: without its attention and a part of its MLP, or gone as a whole.

Candidates are called by the numbers of their first blocks in the dense network, whatever has left before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from lightning_vitc.compensation.dropped import compensate_block
from lightning_vitc.few_shot.block_plan import BlockPlan
from lightning_vitc.few_shot.elimination import Elimination
from lightning_vitc.few_shot.units import members
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.compaction import compact_backbone
from lightning_vitc.networks.dropped_attention import drop_attention, units_that_stay, without_attention, without_blocks

Order = Sequence[int]


class Compression(Protocol):
    """What the stages of a run ask of it."""

    def chosen(self, order: Order) -> list[int]:
        """The candidates that are compressed, the first ones of the order of scores."""

    def is_tried(self, chosen: Order) -> bool:
        """Whether the first one ends as it was in its trial."""

    def compress(self, network: Backbone, done: Order, candidate: int) -> Backbone:
        """One candidate more, as in its trial; those that are done are compressed already."""

    def compress_last(self, network: Backbone, done: Order, candidate: int) -> Backbone:
        """The same of the last one, which may be compressed less."""

    def behind(self, done: Order) -> int:
        """The number of the block behind the last compressed one, in the network where these are."""

    def left(self, chosen: Order) -> tuple[int, ...] | None:
        """The numbers that the blocks of the compressed network had; `None` where all are there."""

    def columns(self, chosen: Order) -> dict[str, Any]:
        """What the final table says of it."""

    def record(self, chosen: Order) -> dict[str, list[int]]:
        """Positions in the dense network of what compressed blocks have kept of their insides, by block."""


@dataclass
class Attentions:
    """Blocks without their attention, with h hidden units.

    Attributes:
        plan: k and h.
        images: [M, C, H, W], seen where units or weights are chosen by what they do.
        keys: of the method.
        seed: of what is drawn.
        units: hidden ones that a block kept when it was compressed last.
    """

    plan: BlockPlan
    images: Tensor
    keys: Any
    seed: int
    units: dict[int, list[int]] = field(default_factory=dict)

    def chosen(self, order: Order) -> list[int]:
        """k blocks."""
        return list(order[: self.plan.blocks])

    def is_tried(self, chosen: Order) -> bool:
        """All are alike."""
        return True

    def compress(self, network: Backbone, done: Order, candidate: int) -> Backbone:
        """The network without the attention of one more block; its hidden units that stay are noted."""
        drawn: dict[str, Any] = dict(seed=self.seed, images=self.images)
        units = units_that_stay(network, candidate, self.plan.hidden, units=self.keys.units, **drawn)
        self.units[candidate] = units.tolist()
        if self.keys.init != "compensate":
            return drop_attention(network, candidate, units, init=self.keys.init, **drawn)
        small = drop_attention(network, candidate, units, **drawn)
        compensate_block(network, small, candidate, self.images)
        return small

    compress_last = compress

    def behind(self, done: Order) -> int:
        """All blocks are there."""
        return max(done) + 1

    def left(self, chosen: Order) -> None:
        """All."""

    def columns(self, chosen: Order) -> dict[str, Any]:
        """The blocks, and h."""
        return {"blocks": sorted(chosen), "hidden": self.plan.hidden}

    def record(self, chosen: Order) -> dict[str, list[int]]:
        """Hidden units."""
        return {str(block): self.units[block] for block in sorted(chosen)}


@dataclass
class Blocks:
    """Whole blocks, one or two at a time, that are gone; the last may stay with a narrower inside.

    Attributes:
        plan: how many leave.
        images, keys, seed: see `Attentions`.
        channels: inner ones that the last block kept.
    """

    plan: Elimination
    images: Tensor
    keys: Any
    seed: int
    channels: dict[int, list[int]] = field(default_factory=dict)

    def chosen(self, order: Order) -> list[int]:
        """As many as it takes."""
        return self.plan.chosen(order)

    def is_tried(self, chosen: Order) -> bool:
        """Unless it is the last one too, and stays in part."""
        return len(chosen) > 1 or not self.plan.narrowed(chosen)

    def compress(self, network: Backbone, done: Order, candidate: int) -> Backbone:
        """The network without one more candidate."""
        gone = tuple(self._now(done, block) for block in members(self.plan.unit, candidate))
        return compact_backbone(network, without_blocks(network, gone))

    def compress_last(self, network: Backbone, done: Order, candidate: int) -> Backbone:
        """Without it, or with its inside narrowed; the channels that stay are noted."""
        count, block = self.plan.narrowed([*done, candidate]), self._now(done, candidate)
        if not count:
            return self.compress(network, done, candidate)
        how: dict[str, Any] = dict(seed=self.seed, images=self.images, units=self.keys.units)
        positions = units_that_stay(network, block, count, **how)
        self.channels[candidate] = positions.tolist()
        return compact_backbone(network, without_attention(network, block, positions))

    def behind(self, done: Order) -> int:
        """What has left does not count; what stays in part does."""
        return self._now(done, members(self.plan.unit, max(done))[-1] + 1)

    def left(self, chosen: Order) -> tuple[int, ...]:
        """Those of the candidates that were not chosen."""
        gone = {block for first in self._whole(chosen) for block in members(self.plan.unit, first)}
        return tuple(block for block in range(self.plan.spec.depth) if block not in gone)

    def columns(self, chosen: Order) -> dict[str, Any]:
        """The blocks that are gone, and what is left of the last one."""
        gone = sorted(block for first in self._whole(chosen) for block in members(self.plan.unit, first))
        narrowed = self.plan.narrowed(chosen)
        return {"blocks": gone} | ({"narrowed": chosen[-1], "channels": narrowed} if narrowed else {})

    def record(self, chosen: Order) -> dict[str, list[int]]:
        """Inner channels."""
        return {str(block): kept for block, kept in self.channels.items()}

    def _whole(self, chosen: Order) -> list[int]:
        return list(chosen[:-1] if self.plan.narrowed(chosen) else chosen)

    def _now(self, done: Order, block: int) -> int:
        """The number of a block where the candidates that are done have left."""
        gone = {number for first in done if first not in self.channels for number in members(self.plan.unit, first)}
        return block - sum(number < block for number in gone)
