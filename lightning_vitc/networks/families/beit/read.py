"""Read the ArchSpec off a BEiT of timm, or refuse a kind that is not supported, by its name."""

from typing import Any

from timm.models.beit import Attention as TimmAttention
from timm.models.beit import Beit
from timm.models.beit import Block as TimmBlock

from lightning_vitc.networks.blocks import Stage
from lightning_vitc.networks.families.beit import layers
from lightning_vitc.networks.families.beit.shape import Options
from lightning_vitc.networks.families.eva.read import biases, gains_of, known_biases
from lightning_vitc.networks.families.plain.read import (
    block_of,
    common_options,
    known_options,
    parts_of,
    refuse_other_branches,
    refuse_other_trunks,
)
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.spec import ArchSpec, name_of, refuse


def read(model: Any) -> ArchSpec | None:
    """The architecture of a BEiT; `None` for a model of another class.

    Raises:
        UserError: for a kind that is not supported, such as a table that blocks share.
    """
    if not isinstance(model, Beit):
        return None
    name = name_of(model)
    refuse_other_trunks(model, name)
    if model.rel_pos_bias is not None:
        refuse(name, "its blocks share a table of biases")
    for block in model.blocks:
        if type(block) not in (TimmBlock, layers.Block):
            refuse(name, f"its blocks are {type(block).__name__}")
        if block.attn is not None and type(block.attn) not in (TimmAttention, layers.BiasedAttention, Attention):
            refuse(name, f"its attention is a {type(block.attn).__name__}")
        refuse_other_branches(block, name)
    stage = Stage(model.embed_dim, tuple(block_of(block) for block in model.blocks))
    return ArchSpec(
        name=name, family="beit", img_size=tuple(model.patch_embed.img_size),
        in_chans=model.patch_embed.proj.in_channels, num_classes=model.num_classes, stages=(stage,),
        options=_options(model),
    )  # fmt: skip


def _options(model: Any) -> Options:
    attns, _, _ = parts_of(model.blocks)
    known: Any = known_options(model)
    tables = [getattr(attn, "relative_position_bias_table", None) is not None for attn in attns]
    return Options(
        **common_options(model, known), **(biases(attns[0]) if attns else known_biases(known)),
        **gains_of(model.blocks, known),
        tables=tables[0] if tables else known.tables,
    )  # fmt: skip
