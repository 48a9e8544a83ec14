"""Checks of logits fail where they should."""

from typing import Any

import pytest
import torch
from on_gpu import networks
from on_gpu.children import Failed
from on_gpu.place import Place


def test_wrong_logits_fail() -> None:
    right = torch.arange(40.0).view(4, 10)
    nearly, wrong, lost = right * (1 + 1e-5), right + torch.eye(4, 10) / 20, right * torch.nan
    assert networks.judged({"one": networks.relative(nearly, right)})["relative"]["one"] < 1e-4
    for name, found in {"wrong": wrong, "lost": lost}.items():
        with pytest.raises(Failed, match=f"^relative errors of more than 0.001: .*{name}"):
            networks.judged({"one": 0.0, name: networks.relative(found, right)})


def test_logits_that_ignore_the_image_fail_however_little_they_depend_on_it() -> None:
    right = 1 + 1e-5 * torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert networks.relative(right.mean(0).expand(4, 10), right) > 0.9


@pytest.mark.parametrize("check", [
    networks.same_logits, networks.masked_is_compact, networks.sliced_is_compact, networks.skipping_is_masked,
])  # fmt: skip
def test_checks_of_networks_fail_with_one_that_computes_otherwise(check: Any, place: Place, monkeypatch: Any) -> None:
    assert max(check(place)["relative"].values()) < 1e-4
    spoilt = spoil(monkeypatch, moving=check is networks.same_logits)
    with pytest.raises(Failed, match=r"^relative errors of more than 0.001: "):
        check(place)
    assert spoilt


def spoil(monkeypatch: pytest.MonkeyPatch, moving: bool) -> list[str]:
    """Make what the checks compare wrong by 1 %: compacted networks, and those that have gates and do not mask."""
    spoilt: list[str] = []

    def wrong(network: Any, name: str) -> Any:
        spoilt.append(name)
        network.head.register_forward_hook(lambda _, __, out: out * 1.01)
        return network

    def compacted(*given: Any) -> Any:
        made = compact(*given)
        made.to = lambda *_: wrong(made, "moved")  # what `same_logits` compares: before and after
        return made if moving else wrong(made, "compact")

    def gating(network: Any, mode: str) -> None:
        set_gating(network, mode)
        if mode != "masked":
            wrong(network, mode)

    compact, set_gating = networks.compact, networks.set_gating
    monkeypatch.setattr(networks, "compact", compacted)
    monkeypatch.setattr(networks, "set_gating", gating)
    return spoilt
