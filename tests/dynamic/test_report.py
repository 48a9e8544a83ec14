"""The end of a run with gates: the extreme images are those of all processes."""

from types import SimpleNamespace
from typing import Any

import torch

from lightning_vitc.dynamic.rate_evaluation import SHOWN, RateEvaluation
from lightning_vitc.dynamic.targets import DynamicTargets
from lightning_vitc.networks.backbone import Backbone


def test_the_extreme_images_of_two_processes_with_unlike_counts(gated: Backbone, monkeypatch: Any) -> None:
    """As those of one process with all of the images."""
    images, labels = torch.randn(SHOWN + 8, 1, 8, 8), torch.zeros(SHOWN + 8, dtype=torch.long)

    def evaluated(part: slice) -> RateEvaluation:
        found = RateEvaluation(gated, DynamicTargets(1, 1, None))
        with torch.no_grad():
            found.test_step((images[part], labels[part]), 0)
        return found

    first, second, whole = evaluated(slice(SHOWN + 3)), evaluated(slice(SHOWN + 3, None)), evaluated(slice(None))
    sent: list[Any] = []
    monkeypatch.setattr(RateEvaluation, "all_gather", lambda self, mine: sent.append(mine) or sent[-1])
    second.trainer = SimpleNamespace(world_size=2)
    second.on_test_epoch_end()
    monkeypatch.setattr(RateEvaluation, "all_gather", lambda self, mine: [
        tuple(torch.stack(both) for both in zip(one, other, strict=True))
        for one, other in zip(mine, sent[0], strict=True)
    ])  # fmt: skip
    first.trainer = SimpleNamespace(world_size=2)
    first.on_test_epoch_end()
    for (_, macs), (_, wanted) in zip(first.extremes, whole.extremes, strict=True):
        assert macs.tolist() == wanted.tolist()
    assert len(first.extremes[0][0]) == SHOWN
