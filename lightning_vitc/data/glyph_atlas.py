"""Characters in many fonts, rendered once: what `glyphs` draws its pictures from.

The fonts come with matplotlib, so they are on every machine and the same there.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZaerndhgtqbf"
"""The classes, in order. Left out are letters that look like another one (O, I, and c, k, o, s, ...)."""

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip

TILE = 64  # pixels of a tile's side
BOX = 44  # pixels of a character's longer side in its tile


def _render(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """One character, white on black, centered: uint8 [TILE, TILE]."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), character, fill=255, font=font)
    drawn = drawn.crop(drawn.getbbox())
    scale = BOX / max(drawn.size)
    width, height = (max(1, round(side * scale)) for side in drawn.size)
    tile = Image.new("L", (TILE, TILE))
    tile.paste(drawn.resize((width, height), Image.Resampling.BOX), ((TILE - width) // 2, (TILE - height) // 2))
    return np.asarray(tile)


@cache
def atlas() -> Tensor:
    """Every character in every font: float32 [fonts, characters, TILE, TILE] in 0..1."""
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    tiles = []
    for name in FONTS:
        # The basic layout engine: Pillow may be built with or without the other one.
        font = ImageFont.truetype(folder / f"{name}.ttf", 2 * TILE, layout_engine=ImageFont.Layout.BASIC)
        tiles.append(np.stack([_render(font, character) for character in CHARACTERS]))
    return torch.from_numpy(np.stack(tiles)).float() / 255
