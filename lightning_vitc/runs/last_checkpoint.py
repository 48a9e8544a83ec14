"""The two newest checkpoints of a stage, `last.ckpt` and the one before it, and which of them to continue from."""

import warnings
import zipfile
from pathlib import Path

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


def drop_previous(folder: Path) -> None:
    """Of a stage that is finished, one checkpoint is enough."""
    (folder / PREVIOUS).unlink(missing_ok=True)


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
