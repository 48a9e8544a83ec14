"""The page of `vitc report`: one HTML file with its pictures inside, for a screen, a phone and paper."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lightning_vitc.errors.messages import counted
from lightning_vitc.measuring.subjects import Settings
from lightning_vitc.networks.units import Unit

TEMPLATE = "report.html"
CLOSE = 1.0  # percent of top-1 below the dense model that still counts as accurate


@dataclass
class Picture:
    """A PNG that also stands beside the page; width and height in CSS pixels."""

    title: str
    file: str
    png: bytes
    width: int
    height: int

    @property
    def data(self) -> str:
        """For `src`."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass
class Section:
    """What the page says of one run beside its rows."""

    label: str
    pictures: Sequence[Picture]
    facts: dict[str, Any]


def page(
    rows: Sequence[dict[str, Any]], fronts: Sequence[Picture], sections: Sequence[Section], place: dict[str, Any],
    settings: Settings,
) -> str:  # fmt: skip
    """The HTML.

    Args:
        rows: of the table; see `report`.
        fronts: the pictures over all runs.
        sections: one a run.
        place: where the latency was measured, of `environment`.
        settings: how.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters["counted"] = counted
    units = {key: Unit.of(row[key] for row in rows) for key in ("macs", "params", "bytes")}
    settings_differ = any(row.get("settings") for row in rows)
    return templates.get_template(TEMPLATE).render(
        rows=rows, any_settings=settings_differ, units=units, tiles=_tiles(rows), fronts=fronts, sections=sections,
        place=place, settings=settings,
    )  # fmt: skip


def _tiles(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What to see first: a number, what it is, and of which network."""
    smaller = [row for row in rows if not row["dense"] and row["share"] < 1]  # than the dense model
    best = max(smaller or rows, key=lambda row: row["top1"])
    over = f" ± {best['top1_std']:.2f}" if "n" in best else ""
    tiles = [(f"{best['top1']:.2f}{over} %", "highest top-1", f"{best['run']}, {best['name']}")]
    dense = {row["run"]: row["top1"] for row in rows if row["dense"]}
    close = [row for row in smaller if row["top1"] >= dense.get(row["run"], 101.0) - CLOSE]
    if close:
        small = min(close, key=lambda row: row["share"])
        fast = max(close, key=lambda row: row["speedup"])
        within = f"within {CLOSE:g} point of dense"
        tiles.append((f"{100 * small['share']:.1f} %", f"of the MACs, {within}", f"{small['run']}, {small['name']}"))
        tiles.append((f"{fast['speedup']:.2f} x", f"speed-up, {within}", f"{fast['run']}, {fast['name']}"))
    return tiles
