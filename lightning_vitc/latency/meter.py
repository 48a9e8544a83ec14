"""The meter of a dense network: what is measured is remembered, and everything is a share of the dense latency."""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_vitc.errors.messages import counted
from lightning_vitc.latency import cache, measuring
from lightning_vitc.latency.cache import DENSE
from lightning_vitc.latency.measuring import shares
from lightning_vitc.latency.place import Place
from lightning_vitc.latency.table import LatencyTable, points_of
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import Experiment

TOGETHER = 8  # networks that are measured beside the dense one at a time, which bounds the memory
RECORD = "latency"  # of a run: what its budget was reckoned with


@dataclass(frozen=True)
class Meter:
    """Measures networks cut from a dense one.

    Attributes:
        dense: the dense network.
        place: where.
        record: the file of a run that has measured already, which then counts.
    """

    dense: ArchSpec
    place: Place
    record: Path | None = None

    @classmethod
    def of(cls, experiment: Experiment, dense: ArchSpec, directory: Path | None = None) -> "Meter":
        """Of an experiment's budget, and of the run in `directory`.

        Raises:
            UserError: for a device that is not there.
        """
        return cls(dense, Place.of(experiment), None if directory is None else directory / f"{RECORD}.json")

    def table(self, gates: Sequence[str] = ()) -> LatencyTable:
        """The table of the network's parts."""
        return LatencyTable.of(self.dense, self.remembered(points_of(self.dense, gates))["nanoseconds"], gates)

    def remembered(self, specs: Mapping[str, ArchSpec]) -> dict[str, Any]:
        """`nanoseconds` of these networks and of `dense`, and their `key`; what is not known is measured.

        That takes from seconds to minutes and says so on stderr.
        """
        return {"key": self._key(specs), "nanoseconds": self.known(specs) or self._measured_and_kept(specs)}

    def known(self, specs: Mapping[str, ArchSpec]) -> dict[str, int] | None:
        """Nanoseconds of these networks and of `dense`, where all were measured before."""
        if self.record is not None:
            key = self._key(specs)
            same = {name: key[name] for name in ("device", "batch_size", "networks")}  # a run may move to another place
            if (found := cache.read(self.record, same)) is not None:
                return found
        kept, labels = self._kept(), {name: cache.label(name, spec) for name, spec in specs.items()}
        if not {DENSE, *labels.values()} <= kept.keys():
            return None
        return {DENSE: kept[DENSE], **{name: kept[label] for name, label in labels.items()}}

    def _measured_and_kept(self, specs: Mapping[str, ArchSpec]) -> dict[str, int]:
        key, kept = cache.key_of(self.dense, self.place), self._kept()
        labels = {name: cache.label(name, spec) for name, spec in specs.items()}
        missing = {name: spec for name, spec in specs.items() if labels[name] not in kept}
        began = time.monotonic()
        print(f"measuring {counted(len(missing), 'network')} on {key['device_name']} ...", file=sys.stderr, flush=True)
        found = self.measured(missing)
        kept |= self._kept()  # again: another process may have measured meanwhile
        dense = kept.setdefault(DENSE, found[DENSE])
        kept |= {labels[name]: max(round(dense * found[name] / found[DENSE]), 1) for name in missing}
        path = cache.file_of(key, self.dense.name)
        where = f"kept in {path}" if cache.write(path, key, kept) else f"not kept: {path.parent} is not writable"
        print(f"measured in {time.monotonic() - began:.0f} s, {where}", file=sys.stderr, flush=True)
        return {DENSE: dense, **{name: kept[label] for name, label in labels.items()}}

    def measured(self, specs: Mapping[str, ArchSpec]) -> dict[str, int]:
        """Nanoseconds of networks and of `dense`, measured now, a few at a time."""
        found: dict[str, float] = {}
        dense: list[float] = []
        names = list(specs)
        for first in range(0, len(names), TOGETHER):
            some = {name: specs[name] for name in names[first : first + TOGETHER]}
            rounds = measuring.in_turns({DENSE: self.dense, **some}, self.place)
            dense += rounds[DENSE]
            found |= shares(rounds)
        whole = 1e6 * statistics.median(dense)
        return {name: max(round(whole * share), 1) for name, share in found.items()}

    def now(self, spec: ArchSpec, dense: int) -> int:
        """Nanoseconds of one network, measured now as its share of the dense one.

        Args:
            spec: the network.
            dense: what the dense network's latency is taken to be: of the table, so that a machine that is slower
                today than when the table was measured changes nothing.
        """
        rounds = measuring.in_turns({DENSE: self.dense, "network": spec}, self.place)
        return max(round(dense * shares(rounds)["network"]), 1)

    def _kept(self) -> dict[str, int]:
        key = cache.key_of(self.dense, self.place)
        return cache.read(cache.file_of(key, self.dense.name), key) or {}

    def _key(self, specs: Mapping[str, ArchSpec]) -> dict[str, Any]:
        """Of these networks together."""
        networks = {name: cache.digest(spec) for name, spec in specs.items()}
        return cache.key_of(self.dense, self.place) | {"networks": networks}


def table_for(experiment: Experiment, dense: ArchSpec, gates: Sequence[str] = ()) -> LatencyTable | None:
    """The table that an experiment's latency budget is reckoned with; `None` for other budgets.

    Args:
        experiment: the experiment.
        dense: its network.
        gates: names of gate networks that may be in front of branches.

    Raises:
        UserError: for a device that is not there.
    """
    if experiment.budget.latency_ms is None:
        return None
    return LatencyTable.of(dense, latencies_for(experiment, dense, points_of(dense, gates)), gates)


def latencies_for(experiment: Experiment, dense: ArchSpec, specs: Mapping[str, ArchSpec]) -> dict[str, int]:
    """Nanoseconds of networks and of `dense`: as the experiment's run has recorded them, or else of this machine."""
    return Meter.of(experiment, dense, RunDirectory.of(experiment).path).remembered(specs)["nanoseconds"]
