"""The files of a sweep: `sweep.md`, `sweep.csv` and `sweep.png`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_vitc.figures.png import png_of
from lightning_vitc.files.atomic import write_atomically
from lightning_vitc.sweeping.table import as_csv, picture, points_of, table


def write(rows: Sequence[dict[str, Any]], keys: Sequence[str], title: str, folder: Path) -> str:
    """Write all three; the table in Markdown.

    Args:
        rows: of `table.rows_of`.
        keys: that differ between runs.
        title: of the picture.
        folder: made where it is not there.
    """
    points = points_of(rows, keys)
    header, cells = table(points)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *cells]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "sweep.md", f"{text}\n".encode())
    write_atomically(folder / "sweep.csv", as_csv(rows, keys).encode())
    write_atomically(folder / "sweep.png", png_of(picture(points, title)))
    return f"{text}\n\n{folder / 'sweep.csv'}, {folder / 'sweep.png'}"
