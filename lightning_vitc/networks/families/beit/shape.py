"""BEiT: what it has beside plain Vision Transformers, a table of biases an attention."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning_vitc.networks.axes import Axes, Inner, Layout
from lightning_vitc.networks.blocks import ATTN
from lightning_vitc.networks.families.eva import shape as eva
from lightning_vitc.networks.families.family import Parts
from lightning_vitc.networks.families.plain import shape as plain
from lightning_vitc.networks.spec import ArchSpec

parts, positions, attended, at_size = plain.parts, plain.positions, plain.attended, plain.at_size
narrow, paired, block_prefix, entry = plain.narrow, plain.paired, plain.block_prefix, plain.entry
BEFORE, BEHIND = plain.BEFORE, plain.BEHIND
EXAMPLES = ("beit_base_patch16_224",)
PAPERS: Mapping[str, Callable[[ArchSpec], Parts]] = plain.PAPERS
TABLE = "attn.relative_position_bias_table"
WITH_CLASS = 3  # distances that are none: class token to patches, patches to it, and to itself


@dataclass(frozen=True)
class Options(plain.Options):
    """What timm's `Beit` is told, as of plain Vision Transformers; `tables` are there in the place of positions."""

    tables: bool = True


def distances(spec: ArchSpec) -> int:
    """Rows of a table."""
    down, across = plain.grid(spec)
    return (2 * down - 1) * (2 * across - 1) + WITH_CLASS


def params(spec: ArchSpec) -> int:
    """Parameters."""
    heads = sum(branch.groups for _, position, branch in spec.branches() if position == ATTN)
    return plain.params(spec) + (distances(spec) * heads if spec.options.tables else 0)


def layout(spec: ArchSpec) -> Layout:
    """Names and axes of the state dict: as of timm's Eva class, and the tables."""
    found = eva.layout(spec)
    return Layout(found.around, tuple(_with_table(spec, number, names) for number, names in enumerate(found.blocks)))


def _with_table(spec: ArchSpec, number: int, names: Axes) -> Axes:
    if spec.blocks[number].branches[ATTN] is None or not spec.options.tables:
        return names
    return names | {TABLE: (None, Inner(number, ATTN, "heads"))}
