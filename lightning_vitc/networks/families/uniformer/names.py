"""The UniFormers that there are, by the names of their authors; timm has none of them. It imports no torch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import Block, Branch, Stage, attention, mlp
from lightning_vitc.networks.families.family import Named
from lightning_vitc.networks.families.uniformer.shape import Options, at_size, is_convolutional
from lightning_vitc.networks.spec import ArchSpec

STAGES = 4


def uniformer(
    name: str, *, embed_dim: Sequence[int], depths: Sequence[int], num_heads: Sequence[int], stem: int = 0,
    mlp_ratio: float = 4, img_size: int | tuple[int, int] = 224, in_chans: int = 3, num_classes: int = 1000,
    light: bool = False,
) -> ArchSpec:  # fmt: skip
    """A UniFormer, by the keys of `model`.

    Args:
        name: of the network.
        embed_dim, depths: width and blocks of each stage.
        num_heads: of the last two stages, whose heads are of one width.
        stem: channels inside of a convolutional stem, 0 for patches.
        mlp_ratio: hidden units by width.
        img_size: pixels, one number for squares.
        in_chans: of an image.
        num_classes: of the classifier.
        light: whether tokens are dropped.

    Raises:
        UserError: for lists of another length, heads that do not come out whole, or such an image size.
    """
    query = _head_width(name, embed_dim, depths, num_heads)
    stages = []
    for number, (width, depth) in enumerate(zip(embed_dim, depths, strict=True)):
        first = Branch("mixer", (width,)) if is_convolutional(number) else attention(query, (query,) * (width // query))
        stages.append(Stage(width, (Block((first, mlp(int(mlp_ratio * width)))),) * depth))
    size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
    options = Options(query**-0.5, stem, light=light)
    return at_size(ArchSpec(name, "uniformer", size, in_chans, num_classes, tuple(stages), options), size)


def _head_width(name: str, widths: Any, depths: Any, heads: Any) -> int:
    for key, values, count in (("embed_dim", widths, STAGES), ("depths", depths, STAGES), ("num_heads", heads, 2)):
        if not isinstance(values, Sequence) or len(values) != count:
            where = "of the stages with attention" if count == 2 else "of the stages"
            raise UserError(f"model.{key}: {values} is no list of {count} numbers, {where} of {name}")
    found = {width / number for width, number in zip(widths[2:], heads, strict=True)}
    query = found.pop()
    if found or query % 1:
        raise UserError(f"model.num_heads: {list(heads)} heads of widths {list(widths[2:])} are not all as wide")
    return int(query)


def _named(name: str, depths: tuple[int, ...], heads: tuple[int, ...], stem: int = 0) -> Named:
    widths = (64, 128, 320, 512)
    return {name: partial(uniformer, name, embed_dim=widths, depths=depths, num_heads=heads, stem=stem)}


def _light(name: str, depths: tuple[int, ...], widths: tuple[int, ...], heads: tuple[int, ...]) -> Named:
    keys: dict[str, Any] = {"embed_dim": widths, "depths": depths, "num_heads": heads, "mlp_ratio": 3}
    return {name: partial(uniformer, name, stem=widths[0] // 2, light=True, **keys)}


NAMES: Named = {
    **_named("uniformer_small", (3, 4, 8, 3), (5, 8)),
    **_named("uniformer_small_plus", (3, 5, 9, 3), (10, 16), stem=32),
    **_named("uniformer_small_plus_dim64", (3, 5, 9, 3), (5, 8), stem=32),
    **_named("uniformer_base", (5, 8, 20, 7), (5, 8)),
    **_light("uniformer_xs", (3, 5, 9, 3), (64, 128, 256, 512), (8, 16)),
    **_light("uniformer_xxs", (2, 5, 8, 2), (56, 112, 224, 448), (8, 16)),
}
PREPARATION = {
    "crop_pct": 0.875, "interpolation": "bicubic", "first_conv": None, "classifier": "head", "fixed_input_size": True,
}  # fmt: skip
