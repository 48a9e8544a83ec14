"""What gates do, as pictures of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_vitc.figures.gates import run_rates_figure, sheet
from lightning_vitc.figures.png import png_of, show
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.runs.tensorboard import cleared_board

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

RATES, IMAGES = "run_rates.png", "cheapest_and_dearest.png"


def write_pictures(run: "Pipeline", rates: dict[str, Tensor], extremes: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Save both into the run's directory and its TensorBoard."""
    logger = cleared_board(run.directory.path, "gates")
    drawn = {RATES: run_rates_figure(rates), IMAGES: sheet(extremes, run.data.spec.mean, run.data.spec.std)}
    for name, figure in drawn.items():
        write_atomically(run.directory.path / name, png := png_of(figure))
        show(logger, name.removesuffix(".png"), png)
    logger.finalize("success")
