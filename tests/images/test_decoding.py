"""From files of every depth and mode to 8-bit RGB: what a pixel becomes, and what is refused."""

import struct

import numpy as np
import pytest
from PIL import Image

from lightning_vitc.images.decoding import UnusableImageError, open_image


def _saved(path, pixels: np.ndarray, mode: str | None = None) -> str:
    image = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, pixels.shape[::-1], pixels.tobytes())
    image.save(path)
    with Image.open(path) as written:
        assert mode in (None, written.mode)
    return str(path)


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [("gray.png", "<u2", "I;16"), ("gray.tif", "<u2", "I;16"), ("big.tif", ">u2", "I;16B"), ("gray.pgm", "<u2", None)],
)
def test_16_bit_gray_is_scaled(tmp_path, name, kind, mode):
    levels = np.array([[0, 128, 129, 20000], [385, 386, 65406, 65535]], dtype=kind)
    image = open_image(_saved(tmp_path / name, levels, mode))
    assert image.mode == "RGB"
    expected = [[0, 0, 1, 78], [1, 2, 254, 255]]  # the level over 257, rounded
    assert np.asarray(image).tolist() == [[[level] * 3 for level in row] for row in expected]


def _tiff(bits: int, photometric: int, pixels: bytes, width: int) -> bytes:
    """One row of gray, as a microscope writes it: a header, nine tags, the pixels."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + pixels


@pytest.mark.parametrize(
    ("bits", "photometric", "pixels", "expected"),
    [
        (12, 1, b"\x00\x08\x00\xff\xf0", [0, 128, 255]),  # 0, 2048 and 4095
        (16, 1, struct.pack("<3H", 0, 32896, 65535), [0, 128, 255]),
        (16, 0, struct.pack("<3H", 0, 32896, 65535), [255, 127, 0]),  # white is zero
    ],
)
def test_a_tiff_says_what_is_white(tmp_path, bits, photometric, pixels, expected):
    (tmp_path / "gray.tif").write_bytes(_tiff(bits, photometric, pixels, 3))
    assert np.asarray(open_image(str(tmp_path / "gray.tif")))[0, :, 0].tolist() == expected


def test_a_pgm_of_another_depth(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5\n2 1\n1000\n" + np.array([500, 1000], dtype=">u2").tobytes())
    assert np.asarray(open_image(str(tmp_path / "deep.pgm")))[0, :, 0].tolist() == [128, 255]


def test_8_and_16_bits_of_the_same_image_agree(tmp_path):
    shallow = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = [
        open_image(_saved(tmp_path / f"{pixels.dtype}.png", pixels))
        for pixels in (shallow, shallow.astype(np.uint16) * 257)
    ]
    assert np.array_equal(*map(np.asarray, images))


@pytest.mark.parametrize(
    ("kind", "mode", "pixels"), [("int32", "I", "32-bit integers"), ("float32", "F", "floating-point numbers")]
)
def test_pixels_of_an_unknown_range_are_refused(tmp_path, kind, mode, pixels):
    path = _saved(tmp_path / "deep.tif", np.full((2, 2), 20000, dtype=kind))
    with pytest.raises(UnusableImageError) as error:
        open_image(path)
    assert str(error.value) == (
        f"data.root: cannot read the image {path}: its pixels are {pixels}, of an unknown range;"
        " save it with 8 or 16 bits, or set data.on_error=skip"
    )
    assert error.value.path == path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_8_bit_modes_are_converted_by_pillow(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    pixels = np.random.RandomState(0).randint(0, 256, (5, 4, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(open_image(str(path)), image.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_on_demand(tmp_path, orientation):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    stored, upright = (np.asarray(open_image(str(path), exif=turn))[..., 0] for turn in (False, True))
    assert np.array_equal(stored, image)
    flipped = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T,
               6: np.rot90(stored, -1), 7: stored[::-1, ::-1].T, 8: np.rot90(stored)}  # fmt: skip
    assert np.array_equal(upright, flipped[orientation])
    image.save(tmp_path / "turned.tif", exif=exif)  # Pillow turns it when it reads it, whoever asks
    for turn in (False, True):
        assert np.array_equal(np.asarray(open_image(str(tmp_path / "turned.tif"), exif=turn))[..., 0], upright)


@pytest.mark.parametrize("name", ["p.png", "p.gif"])
def test_a_transparent_palette_is_no_reason_to_warn(tmp_path, name, recwarn):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5).quantize(16)
    image.save(tmp_path / name, transparency=bytes(range(0, 160, 10)) if name == "p.png" else 3)
    assert np.array_equal(open_image(str(tmp_path / name)), image.convert("RGB"))
    assert not recwarn.list
