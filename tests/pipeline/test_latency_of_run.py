"""Latencies of a run's rows, on the scale of what was measured when it began."""

from types import SimpleNamespace

import pytest

from lightning_vitc.budget.target import LATENCY
from lightning_vitc.pipeline.latency_of_run import LatencyOfRun


@pytest.fixture
def latency(monkeypatch):
    """Of a dense network that took 4 ms then and takes 50 now, and two smaller ones that take 20 and 25 now."""
    monkeypatch.setattr(LatencyOfRun, "dense", 4_000_000)
    networks = [SimpleNamespace(name=name, spec=None, columns={}) for name in ("small", "large")]
    run = SimpleNamespace(
        experiment=SimpleNamespace(budget=SimpleNamespace(latency_ms="1.6")), networks=networks,
        record=lambda name, decide: decide(),
    )  # fmt: skip
    latency = LatencyOfRun(run, None)
    latency.meter = SimpleNamespace(measured=lambda _: {"dense": 50.0, "small": 20.0, "large": 25.0})
    return latency


def test_rows_are_on_the_scale_of_the_record(latency):
    assert latency.of_rows(latency.run.networks) == {"small": 1.6, "large": 2.0}


def test_what_costs_the_budget_to_the_last_unit_is_within_it(latency):
    small, large = latency.run.networks
    assert latency.within_budget([small, large]) == [small]
    large.columns[LATENCY] = 1.5
    assert latency.within_budget([small, large]) == [small, large]
