"""What all tables are made of."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Units = dict[str, dict[str, Any]]


def under(units: Units, prefix: str) -> Units:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): unit for name, unit in units.items() if name.startswith(prefix)}


def good(units: Units, prefix: str) -> list[dict[str, Any]]:
    """Those of them that came to a good end."""
    return [unit for unit in under(units, prefix).values() if unit["status"] == "ok"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def mean(values: Sequence[float]) -> str:
    """With the sample's standard deviation where there are several."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"
