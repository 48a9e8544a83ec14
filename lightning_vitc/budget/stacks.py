"""Where the blocks of a dense network are alike: what is decided about them is computed for all of them at once.

A network of one stage has one stack; one of several has a stack a stage, or where blocks are convolutions alone more,
for those that change the stream cost more than others. Tensors of all L blocks have room for the
largest: a block with fewer heads, value dimensions or channels has places at the end that mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import Block, Branch
from lightning_vitc.networks.families.family import may_be_absent
from lightning_vitc.networks.spec import ArchSpec


@dataclass(frozen=True)
class Stack:
    """Blocks of one stage.

    Attributes:
        stage: its number.
        start, stop: the numbers of its first block and of that behind its last.
        attn, mlp: what each of them has, without gates. In the place of an attention may be a mixer: one head, whose
            value dimensions are its channels; a block of convolutions alone has nothing there.
    """

    stage: int
    start: int
    stop: int
    attn: Branch | None
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
        return self.attn.groups if self.attn else 0

    @property
    def head_dim(self) -> int:
        """Value dimensions of a head."""
        return self.attn.pieces[0] if self.attn else 0

    @property
    def channels(self) -> int:
        """Of an MLP, or of convolutions; none where they are those of the stream."""
        return 0 if self.mlp.kind == "separable" else self.mlp.width

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
        """The network with these blocks in this stage, and none in the others.

        Of convolutions there is one block at most, which stays where it is: what it costs depends on that.
        """
        if self.attn is None:
            return spec.without_branches().with_block(self.start, blocks[0] if blocks else None)
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
    must_do_without_branches(spec)
    found: list[Stack] = []
    for number, stage in enumerate(spec.stages):
        alike = _alike(stage.blocks)
        if alike is None:
            raise UserError(f"model.name: {spec.name} is already pruned; start from a dense model")
        for branches, count in alike:
            start = found[-1].stop if found else 0
            found.append(Stack(number, start, start + count, *branches))  # type: ignore[arg-type]
    return tuple(found)


def _alike(blocks: Sequence[Block]) -> list[tuple[tuple[Branch | None, ...], int]] | None:
    """The branches of blocks that are alike, and how many of them follow; `None` where they differ and should not."""
    shapes = [tuple(branch and replace(branch, gate=None, shift=0) for branch in block) for block in blocks]
    if all(len(shape) == 2 and shape[0] is None and shape[1] is not None for shape in shapes):
        groups = [(shapes[0], 1), *((shape, len(list(same))) for shape, same in groupby(shapes[1:]))]
        return groups if blocks else []
    branches = shapes[0]
    whole = len(branches) == 2 and None not in branches and _is_whole(branches[0])  # type: ignore[arg-type]
    return [(branches, len(blocks))] if whole and len(set(shapes)) == 1 else None


def present(spec: ArchSpec) -> Tensor:
    """[L, 2] which branches there are."""
    return torch.tensor([[branch is not None for branch in block] for block in spec.blocks])


def necessary(spec: ArchSpec) -> Tensor:
    """[L] which blocks cannot be skipped, for they give the stream another shape."""
    return torch.tensor([not may_be_absent(spec, number) for number in range(spec.depth)])


def skippable(spec: ArchSpec) -> Tensor:
    """[L, 2] which branches may be skipped by the image."""
    return present(spec) & ~necessary(spec)[:, None]


def must_do_without_branches(spec: ArchSpec) -> None:
    """Refuse a network whose blocks need all of their branches.

    Raises:
        UserError: naming what may be done with it.
    """
    if spec.drops_tokens:
        raise UserError(
            f"model.name: {spec.name} drops tokens by what its class token attends to, so that its blocks need their "
            "attention whole; its methods are dense and scala"
        )


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
