"""What a run draws into TensorBoard outside of a training: as a whole, or anew after an interruption."""

import shutil
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger


def fresh_board(directory: Path, name: str) -> TensorBoardLogger:
    """The board `tensorboard/<name>` of a run, without what an interrupted process may have drawn there.

    Args:
        directory: of the run.
        name: of the board.
    """
    shutil.rmtree(directory / "tensorboard" / name, ignore_errors=True)
    return TensorBoardLogger(directory, name="tensorboard", version=name, default_hp_metric=False)
