"""A clock that knows how long every network takes."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lightning_vitc.latency import measuring
from lightning_vitc.latency.place import Place
from lightning_vitc.networks.spec import ArchSpec


class Clock:
    """Stands in for `measuring.in_turns`; counts what it was asked."""

    def __init__(self, milliseconds: Callable[[ArchSpec], float]):
        self.milliseconds, self.asked, self.slowness = milliseconds, 0, 1.0

    def __call__(self, specs: Mapping[str, ArchSpec], place: Place) -> dict[str, list[float]]:
        self.asked += len(specs)
        return {
            name: [self.slowness * slow * place.batch_size * self.milliseconds(spec) for slow in (1.0, 3.0, 1.5)]
            for name, spec in specs.items()
        }


def linear(spec: ArchSpec) -> float:
    """Milliseconds of a network as a sum over its pieces, at any embedding width."""
    total = 0.1 + 0.001 * spec.embed_dim
    for block in spec.blocks:
        attn, mlp = block
        if attn is not None:
            total += 0.05 + 0.2 * attn.groups + 0.004 * attn.width
        if mlp is not None:
            total += 0.03 + 0.001 * mlp.width
        total += 0.01 * sum(gate is not None for gate in block.gates)
    return total * spec.embed_dim


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """In place of the real one, with a cache of its own."""
    clock = Clock(linear)
    monkeypatch.setattr(measuring, "in_turns", clock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return clock
