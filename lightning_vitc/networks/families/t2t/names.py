"""The T2T-ViTs that there are, by the names of their authors; timm has none of them. It imports no torch."""

from functools import partial
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import Block, Stage, attention, mlp
from lightning_vitc.networks.families.family import Named
from lightning_vitc.networks.families.t2t.shape import Options, at_size
from lightning_vitc.networks.spec import ArchSpec


def t2t(
    name: str, *, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float, token_layers: str = "performer",
    img_size: int | tuple[int, int] = 224, in_chans: int = 3, num_classes: int = 1000, qkv_bias: bool = False,
    norm_eps: float = 1e-5,
) -> ArchSpec:  # fmt: skip
    """A T2T-ViT, by the keys of `model`.

    Raises:
        UserError: for heads or an image size that do not come out whole.
    """
    if embed_dim % num_heads:
        raise UserError(f"model.num_heads: embed_dim={embed_dim} of {name} is not divisible by {num_heads}")
    query = embed_dim // num_heads
    block = Block((attention(query, (query,) * num_heads), mlp(int(mlp_ratio * embed_dim))))
    options = Options(query**-0.5, token_layers, qkv_bias=qkv_bias, norm_eps=norm_eps)
    size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
    return at_size(
        ArchSpec(name, "t2t", size, in_chans, num_classes, (Stage(embed_dim, (block,) * depth),), options), size
    )


def _named(name: str, embed_dim: int, depth: int, num_heads: int, mlp_ratio: int, layers: str = "performer") -> Named:
    keys: dict[str, Any] = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}
    return {name: partial(t2t, name, token_layers=layers, **keys)}


NAMES: Named = {
    **_named("t2t_vit_7", 256, 7, 4, 2),
    **_named("t2t_vit_10", 256, 10, 4, 2),
    **_named("t2t_vit_12", 256, 12, 4, 2),
    **_named("t2t_vit_14", 384, 14, 6, 3),
    **_named("t2t_vit_19", 448, 19, 7, 3),
    **_named("t2t_vit_24", 512, 24, 8, 3),
    **_named("t2t_vit_t_14", 384, 14, 6, 3, "softmax"),
}
PREPARATION = {"crop_pct": 0.9, "interpolation": "bicubic", "first_conv": None, "fixed_input_size": True}
