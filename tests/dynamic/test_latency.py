"""What is predicted for a latency, and what corrects it."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_vitc.dynamic import latency


def test_a_limit_is_divided_by_how_much_longer_all_of_it_takes() -> None:
    targets: Any = SimpleNamespace(dynamic_costs=lambda _: SimpleNamespace(fixed=30))
    assert latency._predicted(150, 1.5, None, targets) == 100
    assert latency._predicted(15, 1.5, None, targets) == 30, "what is left where everything is skipped"


def test_some_images_correct_what_run_rates_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of them 80 is predicted, and half of 200 is measured: of all images 40 is predicted, so that it is 50."""

    @contextmanager
    def noting_decisions(_: Any) -> Any:
        yield [torch.ones(2), torch.ones(2)]

    monkeypatch.setattr(latency, "noting_decisions", noting_decisions)
    monkeypatch.setattr(latency, "network_of", lambda *_: None)
    monkeypatch.setattr(latency, "share_by_image", lambda *_: 0.5)
    budgeted = SimpleNamespace(expected=lambda ran: torch.tensor([60.0, 100.0]))
    moving: Any = SimpleNamespace(
        evaluation=SimpleNamespace(network=torch.nn.Identity(), budgeted=budgeted, spent=40.0)
    )
    run: Any = SimpleNamespace(
        latency=SimpleNamespace(meter=SimpleNamespace(place=SimpleNamespace(device="cpu")), dense=200),
        data=SimpleNamespace(loader_of=lambda _: [(torch.zeros(2, 3, 8, 8), None)]), dense_spec=None,
    )  # fmt: skip
    assert latency._expected(run, moving) == 50
