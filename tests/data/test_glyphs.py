"""Glyphs: each image is a function of (split, index), and the splits share none."""

import time
from types import SimpleNamespace

import pytest
import torch

from lightning_vitc.data import glyphs as drawing
from lightning_vitc.data.glyph_atlas import BOX, CHARACTERS, FONTS, TILE, atlas
from lightning_vitc.data.glyphs import glyphs


def test_atlas_has_every_character_in_every_font():
    tiles = atlas()
    assert tiles.shape == (len(FONTS), len(CHARACTERS), TILE, TILE)
    assert tiles.amax(dim=(2, 3)).min() > 0.5  # none is blank
    rows, columns = (tiles > 0).any(dim=3).sum(-1), (tiles > 0).any(dim=2).sum(-1)
    assert torch.maximum(rows, columns).unique().tolist() == [BOX]
    assert len(set(CHARACTERS)) == len(CHARACTERS)


def test_an_image_does_not_depend_on_how_many_are_made():
    few, few_labels = glyphs("train", 50, 16, 36)
    many, many_labels = glyphs("train", 1100, 16, 36)
    assert torch.equal(few, many[:50])
    assert torch.equal(few_labels, many_labels[:50])


def test_splits_share_no_image():
    images = torch.cat([glyphs(split, 300, 16, 36)[0] for split in ("train", "validation", "test")])
    assert len(images.flatten(1).unique(dim=0)) == 900


def test_shapes_and_classes():
    images, labels = glyphs("test", 90, 24, 45)
    assert images.shape == (90, 1, 24, 24)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [2] * 45
    assert images.float().std(dim=(1, 2, 3)).min() > 5  # none is blank


def test_the_default_takes_seconds(vision_data):
    glyphs.cache_clear()
    start = time.perf_counter()
    data = vision_data("glyphs", img_size=16, in_chans=1)
    data.setup()
    assert time.perf_counter() - start < 10
    assert data.num_classes == 36
    assert data.sizes == {"train": 6000, "validation": 1500, "test": 2500}


@pytest.mark.slow
def test_native_size_follows_the_model(vision_data):
    for size, native in ((8, 12), (48, 32)):
        data = vision_data("glyphs", img_size=size, in_chans=3, num_samples=40, batch_size=8)
        assert data.splits.native_size == native
        assert next(iter(data.test_dataloader()))[0].shape == (8, 3, size, size)


def test_a_stroke_ends_where_it_ends():
    """From the left to the right quarter of the middle, a twentieth of the image thick: rows 9 and 10 of twenty."""
    drawn = iter([0.0, -0.5, 0.0, 0.5, 0.1])
    columns = SimpleNamespace(uniform=lambda low, high: torch.tensor([next(drawn)]))
    covered = drawing._stroke(columns, 20)[0] > 0.5
    assert covered.any(1).nonzero().flatten().tolist() == [9, 10]
    assert covered.any(0).nonzero().flatten().tolist() == list(range(4, 16))
