"""`vitc rm`: delete runs, and nothing that is none."""

import argparse
import shutil
from pathlib import Path

from lightning_vitc.errors import UserError
from lightning_vitc.files.folder_lock import FolderLock, is_taken
from lightning_vitc.files.paths import path_argument
from lightning_vitc.runs.overview import beginning_with, overview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=path_argument, help="directories of runs")
    parser.add_argument("--force", action="store_true", help="also runs that others begin with")


def run(args: argparse.Namespace) -> int:
    """Delete them, once none of them is refused."""
    paths = list({path.resolve(): path for path in map(Path, args.runs)}.values())
    for path in paths:
        _may_go(path, paths, args.force)
    for path in paths:
        size = overview(path).size
        _remove(path)
        print(f"removed {path} ({size / 1e6:,.1f} MB)")
    return 0


def _remove(path: Path) -> None:
    """Nobody begins it meanwhile; and killed in the middle, this leaves no half of a run but a hidden rest of it."""
    lock, rest = FolderLock(path), path.with_name(f".{path.name}.removed")
    try:
        lock.take()
    except OSError:
        raise UserError(f"{path}: another process has begun to use it; it was not removed") from None
    shutil.rmtree(rest, ignore_errors=True)  # of one that was killed
    path.rename(rest)
    lock.release()
    shutil.rmtree(rest)


def _may_go(path: Path, together: list[Path], force: bool) -> None:
    if path.is_symlink() or not (path / "config.yaml").is_file():
        raise UserError(f"{path}: not a run directory: it has no config.yaml; nothing was removed")
    if is_taken(path):
        raise UserError(f"{path}: another process is running this run; stop it first; nothing was removed")
    going = {str(each.resolve()) for each in together}
    others = [other for other in beginning_with(path) if other.rpartition(" (")[0] not in going]
    if others and not force:
        raise UserError(f"{path}: {others[0]} begins with it; remove that too, or use --force; nothing was removed")
