"""From an image file to 8-bit RGB, or one line that says which image cannot be used and why."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lightning_vitc.errors import UserError

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of a TIFF
_UNSCALED = {"I": "32-bit integers", "F": "floating-point numbers"}  # Pillow's modes: white is no known number


class UnusableImageError(UserError):
    """An image that cannot be decoded or transformed.

    Attributes:
        path: of the file.
        problem: which file, and what of it; the message adds the key of a training that helps.
    """

    def __init__(self, path: str, problem: str, remedy: str = "replace it", key: str = "data.root") -> None:
        super().__init__(f"{key}: {problem}; {remedy}, or set data.on_error=skip")
        self.path, self.problem = path, problem


def open_image(path: str, exif: bool = False) -> Image.Image:
    """The image of a file in RGB, of 8 bits a channel; gray of more bits is scaled, so white stays white.

    The orientation that a camera noted in EXIF is applied with `exif`; torchvision and timm leave it. That of a TIFF
    Pillow always applies, for them too.

    Raises:
        UnusableImageError: for a file that cannot be decoded, whatever the decoder raised, and for pixels of a range
            that the file does not tell.
    """
    try:
        with Path(path).open("rb") as file, Image.open(file) as image:  # by name, Pillow garbles TIFFs on their side
            return in_rgb(image, exif)
    except _NoRangeError as error:
        problem = f"cannot read the image {path}: {error}"
        raise UnusableImageError(path, problem, "save it with 8 or 16 bits") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UnusableImageError(path, f"cannot read the image {path} ({type(error).__name__})") from None


def in_rgb(image: Image.Image, exif: bool = False) -> Image.Image:
    """The same for an image of Pillow.

    Raises:
        ValueError: for pixels of a range that the image does not tell.
    """
    upright = ImageOps.exif_transpose(image) if exif else image
    whole = _in_8_bits(upright, getattr(image, "tag_v2", {})) if _has_16_bits(image) else upright
    if kind := _UNSCALED.get(whole.mode):
        raise _NoRangeError(f"its pixels are {kind}, of an unknown range")
    return _without_transparency(whole).convert("RGB")


class _NoRangeError(ValueError):
    """Pixels of which it is not known how bright white is."""


def _without_transparency(image: Image.Image) -> Image.Image:
    """A palette whose colors are more or less transparent, of which Pillow wants to be asked for RGBA first."""
    return image.convert("RGBA") if isinstance(image.info.get("transparency"), bytes) else image


def _has_16_bits(image: Image.Image) -> bool:
    """Whether its one channel goes up to 65,535; to that Pillow scales a PGM of any depth beyond 8 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _in_8_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """From black to white, which in a TIFF are 12 or 16 bits apart, and may be the other way round."""
    bits = tags.get(BITS_PER_SAMPLE, 16)
    white = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    levels = np.asarray(image).astype(np.uint32)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = white - levels
    return Image.fromarray(((255 * levels + white // 2) // white).astype(np.uint8))
