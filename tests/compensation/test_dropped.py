"""A block of DC-ViT's against numpy: what it lacks, regressed onto what it has, the rest of the mean in its bias."""

import numpy as np
import pytest
import torch

from lightning_vitc.compensation.dropped import RIDGE
from lightning_vitc.few_shot.block_plan import BlockPlan
from lightning_vitc.few_shot.compression import Attentions
from lightning_vitc.methods.dcvit import Arguments
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.dropped_attention import drop_attention
from lightning_vitc.networks.least_squares import seen_by
from tests.compensation.small import images, network


def compressed(whole: Backbone, hidden: int) -> Backbone:
    how = Attentions(BlockPlan(1, hidden), images(whole), Arguments(init="compensate"), seed=3)
    return how.compress(whole, [], 1)


@pytest.mark.parametrize("kind", ["plain, distilled", "plain, gains"])
def test_the_block_is_the_regression(kind: str) -> None:
    whole = network(kind)
    seen = images(whole)
    plain = drop_attention(whole, 1, 40, seed=3, images=seen)
    fitted = compressed(whole, 40)
    a, r = (one.detach().numpy() for one in seen_by(whole, plain, 1, seen))
    a = a[:, :-1]
    centered, wanted = a - a.mean(0), r - r.mean(0)
    system = centered.T @ centered / len(a) + RIDGE * centered.var(0).mean() * np.eye(40)
    change = np.linalg.solve(system, centered.T @ wanted / len(a)).T
    before, after = plain.blocks[1].mlp.fc2, fitted.blocks[1].mlp.fc2
    bias = before.bias.detach().numpy() + r.mean(0) - change @ a.mean(0)
    np.testing.assert_allclose(after.weight.detach().numpy(), before.weight.detach().numpy() + change, atol=1e-5)
    np.testing.assert_allclose(after.bias.detach().numpy(), bias, atol=1e-5)
    with torch.no_grad():
        x = whole.entering(1, seen)
        wanted_now = whole.blocks[1](x)
        errors = [float((one.blocks[1](x) - wanted_now).square().mean()) for one in (fitted, plain)]
    assert errors[0] < 0.9 * errors[1]


def test_without_a_hidden_unit_the_bias_is_the_mean_of_what_the_block_did() -> None:
    whole = network("plain, gains")
    with torch.no_grad():
        x = whole.entering(1, images(whole))
        mean = (whole.blocks[1](x) - x).mean((0, 1))
        added = compressed(whole, 0).blocks[1](x) - x
    torch.testing.assert_close(added, mean.expand_as(added), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["compensate", "least_squares"])
def test_through_a_gain_of_zero_nothing_is_added(init: str) -> None:
    whole = network("plain, gains")
    with torch.no_grad():
        whole.blocks[1].ls2.gamma[0] = 0
    how = Attentions(BlockPlan(1, 40), images(whole), Arguments(init=init), seed=3)
    second = how.compress(whole, [], 1).blocks[1].mlp.fc2
    assert second.weight.isfinite().all()
    assert second.bias.isfinite().all()
