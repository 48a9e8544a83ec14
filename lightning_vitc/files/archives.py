"""Zip archives as torch writes them: nothing is compressed, so that none unpacks to more than it takes."""

import zipfile
from pathlib import Path

from lightning_vitc.errors import UserError


def refuse_swelling(path: str | Path) -> None:
    """Refuse an archive that would unpack to more than its size, by its index; what is no archive is left to others.

    Raises:
        UserError: naming both sizes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return
    if unpacked > (size := Path(path).stat().st_size):
        raise UserError(
            f"{path}: not loaded: it takes {size:,} bytes and unpacks to {unpacked:,}; torch compresses nothing"
        )
