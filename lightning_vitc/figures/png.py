"""A figure is drawn once: its PNG goes into a file, and into TensorBoard."""

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger


def png_of(figure: Figure) -> bytes:
    """Draw a figure, which is empty afterwards."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    figure.clear()
    return file.getvalue()


def show(logger: "TensorBoardLogger", tag: str, png: bytes, step: int | None = None) -> None:
    """Add a drawn figure to TensorBoard."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    logger.experiment.add_image(tag, pixels, step, dataformats="HWC")
