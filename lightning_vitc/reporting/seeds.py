"""Runs that differ in their seed alone are one row: mean and standard deviation."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_vitc.reporting.sources import Source

AVERAGED = ("macs", "params", "bytes", "share", "top1", "top5", "speedup", "realised", "executed_macs", "peak_bytes")
WHOLE = ("macs", "params", "bytes", "executed_macs", "peak_bytes")


@dataclass
class Group:
    """Runs of several seeds, or a run or directory alone.

    Attributes:
        label: that tells it apart.
        settings: `method.skip none`: what differs between groups of one experiment, beside the budget.
        sources: one a seed.
    """

    label: str
    settings: str
    sources: list[Source]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of the table, each over all seeds."""
        first, *others = ([entry.row for entry in source.entries] for source in self.sources)
        rows = []
        for row in first:
            same = [row, *(found for more in others for found in more if found["name"] == row["name"])]
            rows.append(_mean(same) | {"run": self.label, "settings": "" if row["dense"] else self.settings})
        return rows

    @property
    def facts(self) -> dict[str, Any]:
        """Of the first one, with the seeds of all."""
        facts = self.sources[0].facts
        if len(self.sources) == 1:
            return facts
        return facts | {"run": ", ".join(source.facts["run"] for source in self.sources),
                        "seed": ", ".join(str(source.facts["seed"]) for source in self.sources)}  # fmt: skip


def groups_of(sources: Sequence[Source]) -> list[Group]:
    """In the order of the sources; a seed that is there twice is not one more seed."""
    groups: list[list[Source]] = []
    for source in sources:
        same = next((group for group in groups if _agree(source, group)), None)
        if same is None:
            groups.append([source])
        else:
            same.append(source)
    return [Group(_label(group, groups), _differing(group[0], groups, budget=False), group) for group in groups]


def _agree(source: Source, group: Sequence[Source]) -> bool:
    first = group[0]
    if not source.settings or (source.experiment, source.settings) != (first.experiment, first.settings):
        return False
    return source.facts["seed"] not in {other.facts["seed"] for other in group}


def _label(group: Sequence[Source], groups: Sequence[Sequence[Source]]) -> str:
    """A run alone is called by its path; several by their experiment, and by what differs where there are more."""
    if len(group) == 1:
        return group[0].label
    name, settings = group[0].experiment, _differing(group[0], groups)
    return f"{name}, {settings}" if settings else name


def _differing(source: Source, groups: Sequence[Sequence[Source]], budget: bool = True) -> str:
    """`skip none`: the keys that the runs of its experiment do not agree on.

    Args:
        source: of a group.
        groups: all of them.
        budget: also keys of the budget, which the table has a column for.
    """
    others = [group[0].settings for group in groups if group[0].experiment == source.experiment]
    keys = [key for key in source.settings if len({other.get(key) for other in others}) > 1]
    return ", ".join(f"{key.rpartition('.')[2]} {source.settings[key]}"
                     for key in keys if budget or not key.startswith("budget."))  # fmt: skip


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) == 1:
        return rows[0]
    merged = rows[0] | {"n": len(rows), "top1_std": statistics.stdev(row["top1"] for row in rows)}
    for key in AVERAGED:
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            mean = statistics.fmean(values)
            merged[key] = round(mean) if key in WHOLE else mean
    latencies = [row["latency_ms"] for row in rows]
    merged["latency_ms"] = {key: statistics.fmean(each[key] for each in latencies) for key in latencies[0]}
    return merged
