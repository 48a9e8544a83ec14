"""The two newest checkpoints of a stage, `last.ckpt` and the one before it, and which of them to continue from."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

from lightning_vitc.errors import UserError
from lightning_vitc.files.archives import refuse_swelling
from lightning_vitc.files.checkpoint import read_checkpoint

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def settle(folder: Path) -> bool:
    """Make `last.ckpt` the newest checkpoint that is whole; whether there is one. To be called by one process.

    A kill between the two renames of a save leaves only the one before, which is then silently the last. A damaged
    one is dropped for the one before, with a warning.

    Raises:
        UserError: where there are checkpoints and all of them are damaged.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    problems = []
    for path in (last, previous):
        if not path.exists():
            continue
        if (problem := damage(path)) is not None:
            problems.append(problem)
            continue
        if path is previous:
            previous.replace(last)
        if problems:
            warnings.warn(f"{problems[0]}; the run continues from the checkpoint before it", stacklevel=2)
        return True
    if problems:
        raise UserError(f"{problems[0]}, and no other checkpoint of the stage is whole; start over with --fresh")
    return False


def place_in(checkpoint: dict[str, Any], epochs: int | None) -> str:
    """How far a stage is in a checkpoint: `after epoch 3 of 10, step 96`; `in epoch 4 of 10, after step 100`.

    Args:
        checkpoint: its content.
        epochs: of the stage; `None` or -1 where only steps end it.
    """
    epoch, step = checkpoint["epoch"], checkpoint["global_step"]
    number = f"epoch {epoch + 1} of {epochs}" if epochs is not None and epochs > 0 else f"epoch {epoch + 1}"
    is_over = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] > epoch
    return f"after {number}, step {step}" if is_over else f"in {number}, after step {step}"


def drop_previous(folder: Path) -> None:
    """Of a stage that is finished, one checkpoint is enough."""
    (folder / PREVIOUS).unlink(missing_ok=True)


def must_be_whole(path: Path) -> None:
    """Refuse a checkpoint of a finished stage that is damaged, where there is no other to take.

    Raises:
        UserError: that says what is wrong with it.
    """
    if problem := damage(path):
        raise UserError(f"{problem}; start that run over with --fresh")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint that this library wrote, or `None`.

    torch does not compare the checksums of the archive that it writes, so they are compared first: of bytes that
    changed in the middle of a weight nothing else tells.
    """
    try:
        refuse_swelling(path)  # or to compare the checksums would take as long as to unpack it
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except UserError as error:
        return str(error)
    except OSError as error:  # it may go with its run, which another process starts over
        return f"{path}: cannot be read ({error.strerror})"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return f"{path}: damaged or truncated checkpoint"
    if changed is not None:
        return f"{path}: damaged checkpoint: the checksum of {changed} is wrong"
    try:
        content = read_checkpoint(path)
    except UserError as error:
        return str(error)
    whole = isinstance(content.get("state_dict"), dict) and isinstance(content.get("global_step"), int)
    return None if whole else f"{path}: damaged: it is no checkpoint of a stage"
