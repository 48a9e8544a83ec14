"""Exponential moving average of the weights: validated, selected and exported in their place."""

from dataclasses import dataclass

from lightning.pytorch.callbacks import EMAWeightAveraging

from lightning_vitc.schema import bounded


@dataclass
class Arguments:
    """Keys of `callbacks.ema:`."""

    decay: float = bounded(0.9999, gt=0, lt=1)
    start_step: int = bounded(0, ge=0)  # optimizer steps before averaging starts
    every_n_steps: int = bounded(1, gt=0)


class EMA(EMAWeightAveraging):
    """Averages parameters alone: masks and other buffers stay those of the trained model.

    Args:
        decay: weight of the past.
        start_step: optimizer steps before averaging starts.
        every_n_steps: optimizer steps between two updates.
    """

    def __init__(self, decay: float = 0.9999, start_step: int = 0, every_n_steps: int = 1):
        super().__init__(
            decay=decay,
            use_buffers=False,
            update_every_n_steps=every_n_steps,
            update_starting_at_step=start_step or None,
        )
