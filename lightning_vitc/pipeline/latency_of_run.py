"""A run under a budget of latency: what is measured is on record, by which every process and a resumed run go."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from lightning_vitc.budget.target import LATENCY, as_number, latency_amount
from lightning_vitc.latency.meter import RECORD, Meter
from lightning_vitc.latency.table import LatencyTable, points_of
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.stages import Stages
from lightning_vitc.runs.directory import read_json
from lightning_vitc.runs.networks import Network


class LatencyOfRun:
    """Latencies of networks cut from the dense one of a run.

    Args:
        run: whose records they are.
        dense_spec: the dense network.
    """

    def __init__(self, run: Stages, dense_spec: ArchSpec):
        self.run, self.dense_spec, self.budget = run, dense_spec, run.experiment.budget.latency_ms

    @cached_property
    def meter(self) -> Meter:
        """Of the dense network, for the experiment's budget."""
        return Meter.of(self.run.experiment, self.dense_spec, self.run.directory.path)

    @property
    def dense(self) -> int:
        """Nanoseconds of the dense network, as they were measured when the run began."""
        return int(read_json(self.run.directory.path / f"{RECORD}.json", "nanoseconds")["nanoseconds"]["dense"])

    def table(self, gates: Sequence[str] = ()) -> LatencyTable | None:
        """What a budget of latency is reckoned with, as it was measured when the run began; `None` for other budgets.

        Args:
            gates: names of gate networks that may be in front of branches.
        """
        spec = self.dense_spec
        found = self.measure(points_of(spec, gates)) if self.budget is not None else None
        return None if found is None else LatencyTable.of(spec, found, gates)

    def measure(self, specs: Mapping[str, ArchSpec]) -> dict[str, int]:
        """Nanoseconds of networks and of `dense`, measured when the run begins; nothing for other budgets."""
        if self.budget is None:
            return {}
        return dict(self.run.record(RECORD, lambda: self.meter.remembered(specs))["nanoseconds"])

    def now(self, spec: ArchSpec) -> int:
        """Nanoseconds of a network, measured beside the dense one, whose latency is that of the record."""
        return self.meter.now(spec, self.dense)

    def of_rows(self, networks: Sequence[Network]) -> dict[str, float]:
        """Milliseconds of the final networks, measured in turns with the dense one; nothing for other budgets.

        Those that skip by the image have theirs from elsewhere.
        """
        if self.budget is None:
            return {}
        plain = {network.name: network.spec for network in networks if LATENCY not in network.columns}
        found = self.run.record("latency_of_rows", lambda: self._measured(plain))
        return {name: found[name] for name in plain}

    def within_budget(self, networks: Sequence[Network]) -> list[Network]:
        """Those of finished networks whose latency is within the budget; all where none is, or for other budgets."""
        if self.budget is None:
            return list(networks)
        limit = as_number(LATENCY, latency_amount(self.budget, self.dense))
        own = {network.name: network.columns[LATENCY] for network in networks if LATENCY in network.columns}
        found = self.of_rows(networks) | own
        return [network for network in networks if found[network.name] <= limit] or list(networks)

    def _measured(self, specs: dict[str, ArchSpec]) -> dict[str, float]:
        found = self.meter.measured(specs)
        return {name: as_number(LATENCY, round(self.dense * found[name] / found["dense"])) for name in specs}
