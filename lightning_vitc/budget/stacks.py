"""Where the blocks of a dense network are alike: what is decided about them is computed for all of them at once.

A network of one stage has one stack; one of several has a stack a stage. Tensors of all L blocks have room for the
largest: a block with fewer heads, value dimensions or channels has places at the end that mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import Block, Branch
from lightning_vitc.networks.spec import ArchSpec


@dataclass(frozen=True)
class Stack:
    """Blocks of one stage.

    Attributes:
        stage: its number.
        start, stop: the numbers of its first block and of that behind its last.
        attn, mlp: what each of them has, without gates. In the place of an attention may be a mixer: one head, whose
            value dimensions are its channels.
    """

    stage: int
    start: int
    stop: int
    attn: Branch
    mlp: Branch

    def __len__(self) -> int:
        """Blocks."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """Its blocks."""
        return slice(self.start, self.stop)

    @property
    def heads(self) -> int:
        """Of an attention."""
        return self.attn.groups

    @property
    def head_dim(self) -> int:
        """Value dimensions of a head."""
        return self.attn.pieces[0]

    @property
    def channels(self) -> int:
        """Of an MLP."""
        return self.mlp.width

    def of_dims(self, tensor: Tensor) -> Tensor:
        """Its part of [L, H, d], a view."""
        return tensor[self.rows, : self.heads, : self.head_dim]

    def of_heads(self, tensor: Tensor) -> Tensor:
        """Its part of [L, H], a view."""
        return tensor[self.rows, : self.heads]

    def of_channels(self, tensor: Tensor) -> Tensor:
        """Its part of [L, F], a view."""
        return tensor[self.rows, : self.channels]

    def alone(self, spec: ArchSpec, *blocks: Block) -> ArchSpec:
        """The network with these blocks in this stage, and none in the others."""
        stages = (
            replace(stage, blocks=blocks if number == self.stage else ()) for number, stage in enumerate(spec.stages)
        )
        return replace(spec, stages=tuple(stages))


@lru_cache(maxsize=64)
def stacks_of(spec: ArchSpec) -> tuple[Stack, ...]:
    """The stacks of a dense network, in the order of their blocks.

    Raises:
        UserError: for a network whose stages are not of blocks that are alike, as upstream's are.
    """
    found, start = [], 0
    for number, stage in enumerate(spec.stages):
        shapes = {tuple(branch and replace(branch, gate=None, shift=0) for branch in block) for block in stage.blocks}
        branches = shapes.pop() if len(shapes) == 1 else ()
        if len(branches) != 2 or None in branches or not _is_whole(branches[0]):  # type: ignore[arg-type]
            raise UserError(f"model.name: {spec.name} is already pruned; start from a dense model")
        found.append(Stack(number, start, start + len(stage.blocks), *branches))  # type: ignore[arg-type]
        start += len(stage.blocks)
    return tuple(found)


def _is_whole(attn: Branch) -> bool:
    """Whether no head has lost value dimensions; of a mixer that cannot be told."""
    return set(attn.pieces) == {attn.query or attn.width}


def stack_of(stacks: Sequence[Stack], block: int) -> Stack:
    """The one that a block belongs to."""
    return next(stack for stack in stacks if block < stack.stop)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """What belongs to the stacks as one tensor, filled up with zeros."""
    if len(parts) == 1:
        return parts[0]
    most = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        behind = [room for size, largest in zip(part.shape[:0:-1], most[::-1], strict=True)
                  for room in (0, largest - size)]  # fmt: skip
        padded.append(F.pad(part, behind))
    return torch.cat(padded)
