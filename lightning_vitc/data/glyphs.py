"""`glyphs`: small gray pictures of characters in clutter, a task that ships with the project.

A character in one of 21 fonts is scaled, turned, sheared and shifted, and drawn in random contrast over
a shade, parts of other characters and strokes; noise covers it all. People read nearly all of the images;
a ViT of 0.8 million parameters (`experiments/base/glyphs.yaml`) 89 % of the test images after 15 epochs.

Image `index` of a split is a pure function of (split, index): row `index` of a random table belongs to it,
and a smaller data set takes the first rows. The seed is the data set's own: every run sees the same images.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_vitc.data.glyph_atlas import BOX, TILE, atlas
from lightning_vitc.data.seeding import stream

_OVERSAMPLING = 2
_CHUNK = 1000  # images drawn at once: bounds the memory, changes nothing else
_OTHERS = 2  # parts of other characters, each there in half of the images
_STROKES = 2


class _Columns:
    """Deals out the columns of a table of uniform numbers [N, P], each mapped to a range."""

    def __init__(self, table: Tensor) -> None:
        self._columns = iter(table.unbind(1))

    def uniform(self, low: float, high: float) -> Tensor:
        """Numbers [N] in low..high."""
        return low + (high - low) * next(self._columns)

    def integer(self, count: int) -> Tensor:
        """Integers [N] in 0..count-1."""
        return self.uniform(0, count).long().clamp_(max=count - 1)


def _each(value: Tensor) -> Tensor:
    return value[:, None, None]


def _pixels(size: int) -> tuple[Tensor, Tensor]:
    """y, x of the pixel centers [size, size], from -1 to 1 between the edges of the image."""
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def _character(tiles: Tensor, columns: _Columns, extent: Tensor, y0: Tensor, x0: Tensor, size: int) -> Tensor:
    """How far tiles [N, TILE, TILE], randomly turned and sheared, cover the pixels: [N, size, size] in 0..1.

    `extent` [N] is the character's longer side, where 2 is the side of the image; y0, x0 [N] its center.
    """
    angle, shear = columns.uniform(-0.17, 0.17), columns.uniform(-0.12, 0.12)
    stretch = columns.uniform(-0.1, 0.1).exp()
    zoom = (2 * BOX / TILE) / extent
    y, x = _pixels(size)
    y, x = y - _each(y0), x - _each(x0)
    u = _each(angle.cos()) * x + _each(angle.sin()) * y
    v = _each(angle.cos()) * y - _each(angle.sin()) * x
    grid = torch.stack([_each(zoom * stretch) * (u + _each(shear) * v), _each(zoom / stretch) * v], dim=-1)
    return F.grid_sample(tiles[:, None], grid, align_corners=False)[:, 0]


def _stroke(columns: _Columns, size: int) -> Tensor:
    """How far a straight stroke between two random points covers the pixels: [N, size, size] in 0..1."""
    y1, x1, y2, x2 = (_each(columns.uniform(-1.1, 1.1)) for _ in range(4))
    width = _each(columns.uniform(0.04, 0.10))
    y, x = _pixels(size)
    dy, dx = y2 - y1, x2 - x1
    along = ((y - y1) * dy + (x - x1) * dx) / (dy * dy + dx * dx + 1e-6)
    along = along.clamp(0, 1)
    distance = ((y - y1 - along * dy) ** 2 + (x - x1 - along * dx) ** 2).sqrt()
    return ((width - distance) * (size / 2) + 0.5).clamp(0, 1)


def _blend(canvas: Tensor, level: Tensor, coverage: Tensor) -> Tensor:
    return canvas + (_each(level) - canvas) * coverage


def _clutter(canvas: Tensor, columns: _Columns, background: Tensor, contrast: Tensor, size: int) -> Tensor:
    """Draws parts of other characters at the rim, and strokes, in a part of the contrast."""
    tiles = atlas()
    for _ in range(_OTHERS):
        other = tiles[columns.integer(tiles.shape[0]), columns.integer(tiles.shape[1])]
        angle, distance = columns.uniform(0, 2 * torch.pi), columns.uniform(1.0, 1.3)
        extent = columns.uniform(0.8, 1.4)
        part = _character(other, columns, extent, distance * angle.sin(), distance * angle.cos(), size)
        level = background + contrast * columns.uniform(0.4, 1.0)
        canvas = _blend(canvas, level, part * _each((columns.uniform(0, 1) < 0.4).float()))
    for _ in range(_STROKES):
        level = background + contrast * columns.uniform(-0.5, 0.9)
        canvas = _blend(canvas, level, _stroke(columns, size) * _each((columns.uniform(0, 1) < 0.3).float()))
    return canvas


def _draw(labels: Tensor, columns: _Columns, noise: Tensor, size: int) -> Tensor:
    """Pictures of the characters `labels` [N]: uint8 [N, 1, size, size]."""
    fine = size * _OVERSAMPLING
    background = columns.uniform(0.05, 0.3)
    contrast = columns.uniform(0.45, 0.7)
    shade_y, shade_x = columns.uniform(-0.15, 0.15), columns.uniform(-0.15, 0.15)
    y, x = _pixels(fine)
    canvas = _each(background) + _each(shade_y) * y + _each(shade_x) * x
    canvas = _clutter(canvas, columns, background, contrast, fine)

    extent = columns.uniform(1.4, 1.75)
    room = 0.7 * (1.0 - extent / 2)
    y0, x0 = columns.uniform(-1, 1) * room, columns.uniform(-1, 1) * room
    tiles = atlas()[columns.integer(atlas().shape[0]), labels]
    canvas = _blend(canvas, background + contrast, _character(tiles, columns, extent, y0, x0, fine))

    canvas = F.avg_pool2d(canvas[:, None], _OVERSAMPLING)
    canvas = canvas + columns.uniform(0.01, 0.06)[:, None, None, None] * noise.view_as(canvas)
    return (canvas.clamp_(0, 1) * 255).round_().to(torch.uint8)


@lru_cache(maxsize=8)
def glyphs(split: str, count: int, size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of a split: uint8 [count, 1, size, size], and their classes int64 [count].

    The classes take turns, so every class is as frequent as every other.
    """
    parameters, noise = stream(f"glyphs {split}"), stream(f"glyphs {split} noise")
    labels = torch.arange(count) % num_classes
    images = []
    for chunk in labels.split(_CHUNK):
        table = torch.from_numpy(parameters.random_sample((len(chunk), 64))).float()
        grain = torch.from_numpy(noise.standard_normal((len(chunk), size * size))).float()
        images.append(_draw(chunk, _Columns(table), grain, size))
    return torch.cat(images), labels
