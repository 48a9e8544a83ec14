"""What half of the MACs is worth: one network that cannot be measured costs no other one its row."""

from typing import Any

import pytest
from on_gpu import realized, report
from on_gpu.place import Place
from torch import Tensor, nn


def test_candidates_are_all_that_the_study_of_latencies_has() -> None:
    dense = realized.dense_of(Place("cpu", True, *[None] * 3, 2), "DeiT-S")  # type: ignore[arg-type]
    names = {*realized.deploy.networks_of(dense), "UVC, `round_to` 32", realized.deploy.USDC}
    assert set(realized.CANDIDATES) == names


def test_all_is_compiled_before_the_machine_is_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def benchmark(candidates: Any, settings: Any, ready: Any) -> list[dict[str, Any]]:
        done.extend(["compiled", ready() or "timed", *(one.name for one in candidates)])
        return []

    monkeypatch.setattr(realized, "turn", lambda: done.append("turn"))
    monkeypatch.setattr(realized, "benchmark", benchmark)
    realized.shares(place, "DeiT-S", 2, "bf16", realized.CANDIDATES[5])
    assert sorted(done) == sorted(["compiled", "turn", "timed", realized.CANDIDATES[5]])  # one network, by itself


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not while a graph is captured")


def test_what_cannot_be_captured_costs_no_other_row(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def ways(one: Any, *_: Any) -> dict[str, nn.Module]:
        found = {"eager": nn.Identity(), "one graph": Broken()}
        return found if one.name != "dense" else {"eager": nn.Identity()}

    monkeypatch.setattr(realized, "ways_of", ways)
    monkeypatch.setattr(realized, "CANDIDATES", realized.CANDIDATES[:1])
    monkeypatch.setattr(realized.candidates, "__defaults__", (realized.CANDIDATES[:1],))
    values = realized.graphs(place, "fp32")
    rows = [(row["name"], row["way"]) for row in values["rows"]]
    assert rows == [("dense", "eager"), (realized.CANDIDATES[0], "eager")]
    texts = "\n".join(report.speed({"speed/graphs/fp32": {"status": "ok", "values": values}}))
    assert f"without {realized.CANDIDATES[0]}, one graph: RuntimeError: not while a graph is captured" in texts
