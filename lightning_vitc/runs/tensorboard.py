"""What a run shows in TensorBoard: begun anew where an interrupted process has left nothing to continue from."""

import shutil
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


def cleared_board(directory: Path, name: str) -> TensorBoardLogger:
    """The board `tensorboard/<name>` of a run, without what an interrupted process may have written there.

    TensorBoard itself drops scalars and pictures that are written again, but not texts.

    Args:
        directory: of the run.
        name: of the board.
    """
    rank_zero_only(shutil.rmtree)(directory / "tensorboard" / name, ignore_errors=True)
    return TensorBoardLogger(directory, name="tensorboard", version=name, default_hp_metric=False)
