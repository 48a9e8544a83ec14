"""The meter of a dense network: what is measured is remembered, and everything is a share of the dense latency."""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_vitc.architecture import ArchSpec
from lightning_vitc.latency import cache, measuring
from lightning_vitc.latency.measuring import shares
from lightning_vitc.latency.place import Place
from lightning_vitc.latency.table import LatencyTable, points_of
from lightning_vitc.schema import Experiment
from lightning_vitc.training.run_directory import RunDirectory

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

    def known(self, gates: Sequence[str] = ()) -> LatencyTable | None:
        """The same where it was measured before."""
        found = self._kept(cache.key_of(self.dense, points := points_of(self.dense, gates), self.place))
        return None if found is None or points.keys() - found.keys() else LatencyTable.of(self.dense, found, gates)

    def remembered(self, specs: Mapping[str, ArchSpec]) -> dict[str, Any]:
        """`nanoseconds` of these networks and of `dense`, and their `key`; measured if they are not known.

        That takes from seconds to minutes and says so on stderr.
        """
        key = cache.key_of(self.dense, specs, self.place)
        found = self._kept(key)
        if found is None:
            began = time.monotonic()
            print(f"measuring {len(specs) + 1} networks on {key['device_name']} ...", file=sys.stderr, flush=True)
            found, path = self.measured(specs), cache.file_of(key, self.dense.name)
            kept = f"kept in {path}" if cache.write(path, key, found) else f"not kept: {path.parent} is not writable"
            print(f"measured in {time.monotonic() - began:.0f} s, {kept}", file=sys.stderr, flush=True)
        return {"key": key, "nanoseconds": found}

    def measured(self, specs: Mapping[str, ArchSpec]) -> dict[str, int]:
        """Nanoseconds of networks and of `dense`, measured now, a few at a time."""
        found: dict[str, float] = {}
        dense: list[float] = []
        names = list(specs)
        for first in range(0, len(names), TOGETHER):
            some = {name: specs[name] for name in names[first : first + TOGETHER]}
            rounds = measuring.in_turns({"dense": self.dense, **some}, self.place)
            dense += rounds["dense"]
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
        rounds = measuring.in_turns({"dense": self.dense, "network": spec}, self.place)
        return max(round(dense * shares(rounds)["network"]), 1)

    def _kept(self, key: Mapping[str, Any]) -> dict[str, int] | None:
        if self.record is not None:
            same = {
                name: key[name] for name in ("device", "batch_size", "networks")
            }  # a run may be continued elsewhere
            if (found := cache.read(self.record, same)) is not None:
                return found
        return cache.read(cache.file_of(key, self.dense.name), key)


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
