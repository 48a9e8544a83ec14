"""The largest width within a latency."""

from types import SimpleNamespace

import pytest

from lightning_vitc.latency import widths


def test_the_most_macs_within_the_limit_which_may_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest but one takes less time than the smallest."""
    monkeypatch.setattr(widths, "costs", SimpleNamespace(macs=lambda spec: spec))
    choices, times = {"small": 1, "middle": 2, "large": 3}, {"small": 7.0, "middle": 5.0, "large": 9.0}
    found = [widths.largest_within(choices, times, limit) for limit in (9.0, 8.9, 7.0, 5.0, 4.9)]
    assert found == ["large", "middle", "middle", "middle", None]
