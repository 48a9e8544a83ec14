"""What is compressed together: an attention with a part of its MLP, a whole block, or two blocks in a row."""

from collections.abc import Sequence
from typing import Any, Literal

from lightning_vitc.budget.stacks import must_do_without_branches
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.families.family import may_be_absent
from lightning_vitc.networks.spec import ArchSpec

Unit = Literal["attention", "block", "pair"]


def unit_of(asked: Unit | None, spec: ArchSpec) -> Unit:
    """The unit of a network: by default attentions, and whole blocks where there are none.

    Raises:
        UserError: for attentions of a network of convolutions.
    """
    if asked == "attention" and not _has_attention(spec):
        raise UserError(f"method.unit: attention; the blocks of {spec.name} have none; use block, or leave it out")
    return asked or ("attention" if _has_attention(spec) else "block")


def size_of(unit: Unit) -> int:
    """Blocks of a candidate."""
    return 2 if unit == "pair" else 1


def members(unit: Unit, first: int) -> tuple[int, ...]:
    """The blocks of a candidate, which is called by the number of its first one."""
    return tuple(range(first, first + size_of(unit)))


def candidates_of(keys: Any, spec: ArchSpec) -> list[int]:
    """What the `candidates` and the `unit` of a method's keys come to."""
    return chosen_candidates(keys.candidates, spec, unit_of(keys.unit, spec))


def chosen_candidates(asked: Sequence[int] | None, spec: ArchSpec, unit: Unit = "attention") -> list[int]:
    """The blocks that may be compressed, of pairs the first ones.

    Without a choice all but the first and the last of the deepest stage; of a network of convolutions all but the
    first of every stage, which changes the stream. Pairs are counted from the first of those that may be chosen.

    Raises:
        UserError: for a block that is not there, changes the stream, or is in two pairs, or where there is none.
    """
    must_do_without_branches(spec)
    chosen = _by_default(spec, unit) if asked is None else sorted(set(asked))
    if not chosen:
        raise UserError("method.candidates: empty; name at least one block, or leave the key out")
    for first in chosen:
        for block in members(unit, first):
            _must_be_there(spec, first, block)
            if unit != "attention" and not may_be_absent(spec, block):
                raise UserError(f"method.candidates: block {block} changes the stream; nothing can be in its place")
        if unit == "pair" and first + 1 in chosen:
            raise UserError(f"method.candidates: the pairs of blocks {first} and {first + 1} share one; leave one out")
    return chosen


def _must_be_there(spec: ArchSpec, first: int, block: int) -> None:
    if not 0 <= block < spec.depth:
        raise UserError(f"method.candidates: there is no block {block}; the network has 0 to {spec.depth - 1}")
    if spec.place(first)[0] != spec.place(block)[0]:
        raise UserError(f"method.candidates: blocks {first} and {block} are no pair, but of two stages")


def _by_default(spec: ArchSpec, unit: Unit) -> list[int]:
    size, starts = size_of(unit), [sum(spec.depths[:stage]) for stage in range(len(spec.depths))]
    if not _has_attention(spec):
        inner = [range(start + 1, start + depth) for start, depth in zip(starts, spec.depths, strict=True)]
        return [block for blocks in inner for block in blocks[::size] if block + size - 1 in blocks]
    deepest = max(spec.depths)
    start = starts[spec.depths.index(deepest)]
    found = list(range(start, start + deepest - deepest % size, size)[1:-1])
    if not found:
        there = ("pair of blocks has", "pairs of blocks have") if size > 1 else ("block has", "blocks have")
        raise UserError(
            f"method.candidates: {counted(deepest // size, *there)} none between the first and the last; name some"
        )
    return found


def _has_attention(spec: ArchSpec) -> bool:
    return any(branch.query for _, _, branch in spec.branches())
