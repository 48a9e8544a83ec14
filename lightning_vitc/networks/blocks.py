"""What an ArchSpec is made of: stages of blocks of branches, and the narrower ones of them. It imports no torch."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_vitc.errors import UserError

ATTN, MLP = 0, 1  # positions of the branches in a block of a transformer


@dataclass(frozen=True)
class Branch:
    """What reads the stream and adds to it.

    Attributes:
        kind: `attention`, `mlp`, `glu`, `mixer`, `basic`, `inverted` or `separable`.
        pieces: of each group: the value width of every head; elsewhere one number, of hidden units or channels.
        query: of an attention, the width of a head's queries and keys; 0 elsewhere.
        gate: the network that lets the branch run by the image (`gates.shapes.GATES`), or none.
        shift: of a windowed attention, pixels by which its windows are shifted.
    """

    kind: str
    pieces: tuple[int, ...]
    query: int = 0
    gate: str | None = None
    shift: int = 0

    @property
    def groups(self) -> int:
        """Heads of an attention; else 1."""
        return len(self.pieces)

    @property
    def width(self) -> int:
        """All pieces together: rows of the value projection, hidden units, inner channels."""
        return sum(self.pieces)

    def of_pieces(self, *pieces: int) -> "Branch":
        """The same with so many pieces in each group, and without its gate."""
        return dataclasses.replace(self, pieces=pieces, gate=None)

    @property
    def padded(self) -> int:
        """The width that an attention's values run with: fused kernels want it as large as that of queries."""
        return max(self.query, *self.pieces)

    @property
    def query_width(self) -> int:
        """Rows of an attention's query projection, and of its key projection."""
        return self.groups * self.query


def attention(query: int, values: Sequence[int], gate: str | None = None, shift: int = 0) -> Branch:
    """A self-attention whose heads have queries of one width and values of their own."""
    return Branch("attention", tuple(values), query, gate, shift)


def mlp(hidden: int, gate: str | None = None, kind: str = "mlp") -> Branch:
    """Two layers with so many units between them."""
    return Branch(kind, (hidden,), gate=gate)


@dataclass(frozen=True)
class Block:
    """Branches in the order in which they run. The position of a branch names its weights; `None` is gone."""

    branches: tuple[Branch | None, ...]

    def __iter__(self) -> Iterator[Branch | None]:
        return iter(self.branches)

    def with_branch(self, position: int, branch: Branch | None) -> "Block":
        """The same block with another branch there."""
        return Block((*self.branches[:position], branch, *self.branches[position + 1 :]))

    @property
    def gates(self) -> tuple[str | None, ...]:
        """Of every branch."""
        return tuple(None if branch is None else branch.gate for branch in self.branches)

    def with_gates(self, gates: Sequence[str | None]) -> "Block":
        """The same block with other gates, or with none; a branch that is gone has none."""
        pairs = zip(self.branches, gates, strict=True)
        return Block(tuple(branch and dataclasses.replace(branch, gate=gate) for branch, gate in pairs))

    @property
    def is_gone(self) -> bool:
        """Whether no branch is left."""
        return not any(self.branches)


def convolutions(kind: str, channels: int, gate: str | None = None) -> Block:
    """A block of convolutions alone: its branch stands where a transformer's MLP does, with nothing before it."""
    return Block((None, Branch(kind, (channels,), gate=gate)))


@dataclass(frozen=True)
class Stage:
    """Blocks that share a stream of one width."""

    width: int
    blocks: tuple[Block, ...]


def must_be_depths(name: str, stages: int, depths: Sequence[int]) -> None:
    """Refuse numbers of blocks that the stages of a network cannot have.

    Raises:
        UserError: for more stages than there are, or one without blocks.
    """
    if len(depths) > stages or min(depths, default=0) < 1:
        raise UserError(f"model.depths: {list(depths)} are not the blocks of up to {stages} stages, as {name} has")


def as_ratio(width: Fraction | float | str) -> Fraction:
    """An exact ratio from its decimal text: `0.3125` is 5/16, `"1/3"` is 1/3.

    Raises:
        UserError: for anything that is not a number.
    """
    try:
        return width if isinstance(width, Fraction) else Fraction(str(width))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"width: {width!r} is not a number; give a ratio such as 0.5") from None


def scaled(size: int, ratio: Fraction, what: str) -> int:
    """`ratio` of a size.

    Raises:
        UserError: where it does not come out whole.
    """
    found = size * ratio
    if found.denominator != 1:
        raise UserError(f"width: {float(ratio):g} of {what} {size} is {float(found):g}, not a whole number")
    return found.numerator


def narrow_branch(branch: Branch, ratio: Fraction, cut: str) -> Branch:
    """A branch of the narrower network, without its gate; as `ArchSpec.at_width`."""
    if not branch.query:
        pieces = tuple(scaled(size, ratio, "the hidden width") for size in branch.pieces)
        return dataclasses.replace(branch, pieces=pieces, gate=None)
    if cut == "heads":
        heads = scaled(branch.groups, ratio, "the number of heads")
        return dataclasses.replace(branch, pieces=branch.pieces[:heads], gate=None)
    query = scaled(branch.query, ratio, "the head width")
    pieces = tuple(scaled(size, ratio, "the value width") for size in branch.pieces)
    return dataclasses.replace(branch, pieces=pieces, query=query, gate=None)


def narrow_stages(stages: Sequence[Stage], ratio: Fraction, cut: str) -> tuple[Stage, ...]:
    """All streams and branches narrower by one ratio: what most families mean by a width."""
    return tuple(
        Stage(
            scaled(stage.width, ratio, "the embedding width"),
            tuple(
                Block(tuple(branch and narrow_branch(branch, ratio, cut) for branch in block)) for block in stage.blocks
            ),
        )
        for stage in stages
    )
