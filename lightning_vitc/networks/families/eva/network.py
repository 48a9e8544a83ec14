"""Networks of timm's Eva class of any shape an ArchSpec can describe: timm's model with blocks of our own.

State-dict keys are timm's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import create_rope_embed
from timm.models.eva import Eva
from torch import Tensor, nn

from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.families.eva.layers import Block, MixedAttention
from lightning_vitc.networks.families.eva.read import read as read
from lightning_vitc.networks.families.eva.shape import MIXED, Options, dimensions
from lightning_vitc.networks.families.plain.network import add_pool
from lightning_vitc.networks.modules.block import drops_of
from lightning_vitc.networks.modules.buffers import place_buffers as place_buffers
from lightning_vitc.networks.modules.compilation import Compilable
from lightning_vitc.networks.modules.described import Described
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec


class EvaViT(Described, Compilable, Eva):
    """timm's model with blocks of our own, whose heads may keep a part of the bands of its rotary positions.

    Attributes:
        bands: positions of those, of the sines and cosines of a whole head; `None` for all.
    """

    bands: Tensor | None
    rope: Any

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's."""
        super().set_input_size(*args, **kwargs)
        for block in self.blocks:
            if isinstance(block.attn, MixedAttention):
                block.attn.move(self.patch_embed.grid_size)

    def no_weight_decay(self) -> set[str]:
        """timm's, and learned frequencies."""
        learned = {name for name, _ in self.named_parameters() if name.endswith(".freqs")}
        return super().no_weight_decay() | learned

    def rotations(self) -> Tensor | None:
        """Sines and cosines [patches, 2 head_dim] of all positions, unless blocks have their own."""
        if self.rope is None:
            return None
        rope = self.rope.get_embed()
        return rope if self.bands is None else rope.index_select(-1, self.bands)

    def _pos_embed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x, rope = super()._pos_embed(x)
        return x, rope if rope is None or self.bands is None else rope.index_select(-1, self.bands)

    def fix_init_weight(self) -> None:
        """timm's, for the branches there are."""
        scale_by_depth(self.blocks)


class EvaBackbone(Backbone, EvaViT):  # type: ignore[misc]
    """The one that is trained."""

    def stem(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D]."""
        return self.norm_pre(self._pos_embed(self.patch_embed(x))[0])

    def running(self) -> Sequence[Any]:
        """The blocks at the positions of this pass."""
        rope = self.rotations()
        return [partial(block, rope=rope) for block in self.blocks]

    def tail(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.norm(x)


@torch.no_grad()
def scale_by_depth(blocks: Sequence[Any]) -> None:
    """Smaller first weights of what later blocks add, as timm's `fix_init_weight`."""
    for number, block in enumerate(blocks, 1):
        for last in (block.attn and block.attn.proj, block.mlp and block.mlp.fc2):
            if last is not None:
                last.weight.div_((2.0 * number) ** 0.5)


def build(spec: ArchSpec, rates: Mapping[str, float] | None = None, trained: bool = False) -> EvaViT:
    """A model of the described shape, weights not yet set (see `initialize`); as of plain ones."""
    rates, o = rates or {}, spec.options
    model = (EvaBackbone if trained else EvaViT)(
        img_size=spec.img_size, patch_size=o.patch_size, in_chans=spec.in_chans, num_classes=spec.num_classes,
        global_pool="avg" if o.pool_heads else o.global_pool, embed_dim=spec.embed_dim, depth=0, num_heads=1,
        norm_layer=norm_of(o.norm, o.norm_eps), class_token=o.class_token, num_reg_tokens=o.reg_tokens,
        no_embed_class=o.no_embed_class, use_abs_pos_emb=o.pos_embed, use_pre_transformer_norm=o.pre_norm,
        use_post_transformer_norm=o.final_norm and not o.fc_norm, use_fc_norm=o.final_norm and o.fc_norm,
        drop_rate=rates.get("drop_rate", 0.0),
    )  # fmt: skip
    model.spec = spec
    model.blocks = nn.ModuleList(
        Block(spec, block, **drops) for block, drops in zip(spec.blocks, drops_of(rates, spec.depth), strict=True)
    )
    add_pool(model, spec)
    model.rope = _rope(spec) if o.rope not in ("", MIXED) else None
    model.register_buffer("bands", _bands(o), persistent=False)
    return model


def initialize(model: EvaViT) -> None:
    """Draw fresh weights in place, as timm does for a new model."""
    model.init_weights()


def _rope(spec: ArchSpec) -> nn.Module:
    """timm's, for whole heads; its buffers are of the CPU, on `meta` too."""
    o, (height, width), (down, across) = spec.options, spec.img_size, spec.options.patch_size
    more: dict[str, Any] = {"ref_feat_shape": o.rope_reference if any(o.rope_reference) else None, "in_pixels": False}
    more["rescale_coords"] = o.rope_rescale or None
    with torch.device("cpu"):
        return create_rope_embed(
            o.rope, o.rope_dim, num_heads=1, feat_shape=[height // down, width // across],
            temperature=o.rope_temperature, grid_indexing=o.rope_indexing, grid_offset=o.rope_offset,
            rotate_half=o.rope_half, **more,
        )  # fmt: skip


def _bands(options: Options) -> Tensor | None:
    """Positions of the bands there are among sines, then cosines of a whole head."""
    count = options.rope_dim // options.per_band
    if options.rope in ("", MIXED) or len(options.rope_bands) == count:
        return None
    kept = torch.tensor(dimensions(options, options.rope_bands, count), device="cpu")
    return torch.cat([kept, options.rope_dim + kept])
