"""Every criterion against values that are derived by hand, or by removing the piece."""

from typing import Any

import pytest
import torch

from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.outlets import Outlet
from lightning_vitc.compensation.ranking import rank
from lightning_vitc.networks.backbone import Backbone
from tests.compensation.small import KINDS, images, network


def seen_by(model: Any, layer: Any, pictures: torch.Tensor) -> torch.Tensor:
    entered: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        model.forward_features(pictures)
    handle.remove()
    return entered[0].double()


def of_tokens(kind: str) -> tuple[Backbone, torch.Tensor]:
    model = network(kind)
    return model, images(model)


@pytest.mark.parametrize("criterion", ["energy", "variance"])
@pytest.mark.parametrize("kind", ["plain, distilled", "plain, gains"])
def test_energies_and_variances_are_those_of_what_a_piece_adds(kind: str, criterion: Any) -> None:
    model, pictures = of_tokens(kind)
    found = rank(model, Calibration.of(pictures, 7), criterion)
    block = model.blocks[1]
    with torch.no_grad():
        before = model.entering(1, pictures).double()
        after = model.entering(2, pictures).double()
    stream = after.square().sum(-1).mean()
    for layer, at, got in ((block.attn.proj, 0, found.dims[1].flatten()), (block.mlp.fc2, 1, found.channels[1])):
        gains = block.gains(at)
        weight = layer.weight.double() if gains is None else gains.double()[:, None] * layer.weight.double()
        a = seen_by(model, layer, pictures).flatten(0, -2)
        added = a[:, None, 3] * weight[None, :, 3]  # [n, D] of piece 3
        if criterion == "variance":
            added = added - added.mean(0)
        assert float(got[3]) == pytest.approx(float(added.square().sum(-1).mean() / stream), rel=1e-5)
    change = after - before
    change = change - change.mean((0, 1)) * (criterion == "variance")
    assert float(found.blocks[1]) == pytest.approx(float(change.square().sum(-1).mean() / stream), rel=1e-5)


def test_sensitivities_are_squared_changes_of_features_where_these_are_linear() -> None:
    """The last unit before the features, without a final norm: J is the column, so that E (Σ g (a - E a))² is exact."""
    model = network("plain, distilled")
    model.norm, pictures = torch.nn.Identity(), images(model, 600)
    found = rank(model, Calibration.of(pictures, 100), "sensitivity", seed=1)
    layer = model.blocks[-1].mlp.fc2
    a = seen_by(model, layer, pictures)  # [B, N, F]
    change = (a - a.mean((0, 1)))[..., None] * layer.weight.double().T  # [B, N, F, D] of every unit
    exact = change.square().mean((0, 1, 3))
    torch.testing.assert_close(found.channels[-1].double() / exact, torch.ones_like(exact), rtol=0, atol=0.4)
    assert float((found.channels[-1].double() / exact).mean()) == pytest.approx(1, abs=0.02)


def test_the_sensitivity_of_a_piece_is_what_its_absence_changes_to_first_order() -> None:
    """In the first block: a piece shrunk towards its mean by a little changes the features by as much, squared."""
    model, pictures = of_tokens("plain, gains")
    found = rank(model, Calibration.of(pictures, 8), "sensitivity").channels[0].double()
    layer, little = model.blocks[0].mlp.fc2, 1e-2
    a = seen_by(model, layer, pictures).flatten(0, -2).mean(0).float()
    with torch.no_grad():
        whole = model.forward_features(pictures).double()
        changes = []
        for unit in range(0, 96, 8):

            def shrink(_: Any, inputs: Any, unit: int = unit) -> Any:
                moved = inputs[0].clone()
                moved[..., unit] -= little * (moved[..., unit] - a[unit])
                return (moved,)

            handle = layer.register_forward_pre_hook(shrink)
            changes.append(float((model.forward_features(pictures).double() - whole).square().mean()) / little**2)
            handle.remove()
    exact = torch.tensor(changes, dtype=torch.float64)
    assert float((found[:96:8] / exact).log().abs().max()) < 0.5
    assert float((found[:96:8] / exact).mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("criterion", ["energy", "sensitivity"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_ranked(kind: str, criterion: Any) -> None:
    model = network(kind)
    found = rank(model, Calibration.of(images(model, 8), 4), criterion)
    again = rank(model, Calibration.of(images(model, 8), 4), criterion)
    for one, other in zip(vars(found).values(), vars(again).values(), strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()
        assert (one >= 0).all()
    assert (found.channels.sum(-1) > 0).any()


def test_pieces_beyond_a_norm_count_by_what_it_lets_through() -> None:
    model = network("resnet")
    outlet = Outlet.of(model, (1, 1))
    norm, layer = outlet.behind, outlet.layer
    assert norm is not None
    through = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = (layer.weight * through[:, None, None, None]).square().sum((0, 2, 3))
    torch.testing.assert_close(outlet.strengths.float(), expected)
