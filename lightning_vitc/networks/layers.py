"""The layers of a network by their depth, as timm counts them where rates and freezing depend on it."""

from lightning_vitc.networks.families.family import shape_of
from lightning_vitc.networks.spec import ArchSpec


def layer_of(name: str, spec: ArchSpec) -> int:
    """The layer that a weight is in, or a module whose name ends with a dot.

    Layer 0 is what is before the blocks, tokens and positions included, n + 1 is block n with what leads into its
    stage, and one more the classifier with what is its own; the final norm belongs to the last block (timm's
    `group_matcher`, after BEiT's `optim_factory.py`). Blocks that are gone keep their numbers.

    Args:
        name: in the network, such as `blocks.3.attn.qkv.weight`.
        spec: of the network.
    """
    shape, number = shape_of(spec), 0
    if name.startswith(tuple(shape.BEFORE)):
        return 0
    for stage, depth in enumerate(spec.depths):
        number += depth
        for at in range(depth):
            leads = shape.entry(stage) if stage and not at else ()
            if name.startswith((shape.block_prefix(stage, at), *leads)):
                return number - depth + at + 1
    return spec.depth if name.startswith(tuple(shape.BEHIND)) else spec.depth + 1


def is_before(name: str, block: int, spec: ArchSpec) -> bool:
    """Whether a weight, or a module, is before a block: in the stem, an earlier block, or what leads into its stage."""
    return layer_of(name, spec) <= block and not name.startswith(tuple(shape_of(spec).BEHIND))
