"""The clock in a training."""

from types import SimpleNamespace
from typing import Any

import pytest
from on_gpu import steps
from on_gpu.clock import Clock, MeasuredEnough
from on_gpu.place import Place


@pytest.mark.parametrize("alone", [True, False])
def test_memory_is_measured_beside_others(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[None] = []
    monkeypatch.setattr("on_gpu.clock.turn", lambda: waited.append(None))
    clock = Clock("cpu", 2, 1, counted=False, alone=alone)
    for _ in range(4):
        clock.on_train_batch_end()
    with pytest.raises(MeasuredEnough):
        clock.on_train_batch_end()
    assert (len(waited), len(clock.seconds), clock.bytes > 0) == (int(alone), 3, True)


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("short", "alone"), [(True, False), (False, True)])
def test_only_steps_that_are_timed_are_alone(short: bool, alone: bool, place: Place, monkeypatch: Any) -> None:
    clocks = []
    monkeypatch.setattr(steps, "probe_of", lambda *_: SimpleNamespace(clock=None))
    monkeypatch.setattr(steps, "Clock", lambda *given, **named: clocks.append(named["alone"]) or stop())
    with pytest.raises(Stopped):
        steps.step(place, "DeiT-S", "dense", "bf16", short=short)
    assert clocks == [alone]


def stop() -> None:
    raise Stopped
