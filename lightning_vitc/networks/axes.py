"""Along which axis each dimension of a weight runs, so that a smaller network's weights can be picked out.

A family names its weights and buffers with one axis for each of their dimensions (`families.Shape.axes`). Two
dimensions that must be cut alike have the same axis.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lightning_vitc.networks.blocks import Branch
from lightning_vitc.networks.spec import ArchSpec


class Inner(NamedTuple):
    """An axis of a branch, which nothing outside of it shares.

    Attributes:
        block: the number of its block, over all stages.
        branch: its position there.
        what: `qkv` (the rows of a packed projection), `values`, `queries` (positions inside a head's queries), `heads`,
            or `pieces` of a branch without heads.
    """

    block: int
    branch: int
    what: str


class Tiled(NamedTuple):
    """An axis several times over.

    Attributes:
        axis: what is repeated.
        outer: blocks of the whole axis one after another: index g · size + c (Swin's merge, a packed gated MLP).
        inner: as many neighbors for every position: index c · inner + j (an unfolded image).
    """

    axis: "str | Inner"
    outer: int = 1
    inner: int = 1


class Stretch(NamedTuple):
    """One of the equal stretches that an axis begins with: the queries or the keys of the rows of a packed projection.

    Attributes:
        axis: the whole.
        number: which of them; each is as long as the weight that has this axis.
    """

    axis: Inner
    number: int


class Halved(NamedTuple):
    """An axis of which two neighbors are one position."""

    axis: Inner


# a text is an axis of the network, such as its streams; `None` is never cut
Axis = str | Inner | Tiled | Stretch | Halved | None
Axes = dict[str, tuple[Axis, ...]]  # by the name of a weight or buffer


@dataclass(frozen=True)
class Layout:
    """All that a state dict holds.

    Attributes:
        around: the weights outside of the blocks.
        blocks: those of every block, by their names behind the block's prefix.
    """

    around: Axes
    blocks: tuple[Axes, ...]


def stream(stage: int) -> str:
    """The axis of a stage's stream."""
    return f"stage{stage}"


def branch_sizes(branch: Branch) -> dict[str, int]:
    """The sizes of a branch's axes."""
    if not branch.query:
        return {"pieces": branch.width}
    rows = 2 * branch.query_width + branch.width
    return {"qkv": rows, "values": branch.width, "queries": branch.query, "heads": branch.groups}


def sizes(spec: ArchSpec) -> dict[str | Inner, int]:
    """The sizes of all axes; those that a family adds are its `Options.axes`."""
    found: dict[str | Inner, int] = {stream(number): stage.width for number, stage in enumerate(spec.stages)}
    for number, position, branch in spec.branches():
        found |= {Inner(number, position, what): size for what, size in branch_sizes(branch).items()}
    return found | getattr(spec.options, "axes", {})


def linear(name: str, rows: Axis, columns: Axis, bias: bool = True) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Weight and bias of a linear layer."""
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def norm(name: str, axis: Axis, bias: bool = True) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Weight and bias of a layer norm."""
    yield f"{name}.weight", (axis,)
    if bias:
        yield f"{name}.bias", (axis,)


def batch_norm(name: str, axis: Axis) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Weight, bias and statistics of a batch norm."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (axis,)
    yield f"{name}.num_batches_tracked", ()
