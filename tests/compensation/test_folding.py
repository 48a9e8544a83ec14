"""The regression against numpy's least squares, and against the gradient that it makes zero."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_vitc.compensation.calibration import Calibration
from lightning_vitc.compensation.folding import Joint, fold, regressed, ridge_columns
from lightning_vitc.compensation.moments import Moments
from lightning_vitc.compensation.outlets import Outlet

ROWS, PIECES, WIDTH = 50, 6, 4
KEPT = torch.tensor([0, 2, 3])


def activations() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(PIECES, PIECES, generator=generator)
    return torch.randn(ROWS, PIECES, generator=generator) @ mixing + 3  # with means


def joint_of(a: torch.Tensor, kept: torch.Tensor) -> Joint:
    moments = Moments(PIECES, len(kept), torch.device("cpu"))
    for part in a.split(7):
        moments.add(part, part[:, kept])
    return moments.joint(Calibration({}), kept)


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
def test_it_is_the_solution_of_an_augmented_least_squares_problem(ridge: float) -> None:
    """min |y - W' a'|² + n r |W' - W_K|² as rows: those of the data, and sqrt(n r) of the identity."""
    a, weight = activations(), torch.randn(WIDTH, PIECES, generator=torch.Generator().manual_seed(1)).double()
    found = ridge_columns(weight, KEPT, joint_of(a, KEPT), ridge).numpy()
    data = a.double().numpy()
    centered = data - data.mean(0)
    left, stay = centered[:, KEPT], weight.numpy()[:, KEPT]
    strength = np.sqrt(ROWS * ridge * left.var(0).mean())
    system = np.vstack([left, strength * np.eye(len(KEPT))])
    wanted = np.vstack([centered @ weight.numpy().T, strength * stay.T])
    expected = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_pieces_of_a_pruned_branch_may_differ_from_those_of_the_dense_one() -> None:
    a = activations().double()
    other = torch.tanh(a[:, KEPT]) + 0.1 * a[:, :1]
    moments = Moments(PIECES, len(KEPT), torch.device("cpu"), apart=True)
    moments.add(a, other)
    joint = moments.joint(Calibration({}), KEPT)
    weight = torch.randn(WIDTH, PIECES, generator=torch.Generator().manual_seed(1)).double()
    found = ridge_columns(weight, KEPT, joint, 1e-12).numpy()
    left, right = other.numpy() - other.numpy().mean(0), a.numpy() - a.numpy().mean(0)
    expected = np.linalg.lstsq(left, right @ weight.numpy().T, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
def test_what_follows_linearly_is_folded_in_exactly(bias: bool) -> None:
    """Also without a bias, where the means take part in the regression; with one, up to a constant too."""
    a = activations()
    layer = nn.Linear(PIECES, WIDTH, bias=bias)
    gone = torch.tensor([1, 4, 5])
    a[:, gone] = a[:, KEPT] @ torch.randn(3, 3, generator=torch.Generator().manual_seed(2)) + 2.0 * bias
    with torch.no_grad():
        wanted = layer(a)
        fold(Outlet(layer), KEPT, joint_of(a, KEPT), "regression", 1e-12)
        a[:, gone] = 0
        torch.testing.assert_close(layer(a), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert not layer.weight[:, gone].any()


def test_the_mean_alone_goes_into_the_bias() -> None:
    a, layer = activations(), nn.Linear(PIECES, WIDTH)
    bias, weight = layer.bias.detach().clone(), layer.weight.detach().clone()
    fold(Outlet(layer), KEPT, joint_of(a, KEPT), "mean", 1e-3)
    assert torch.equal(layer.weight[:, KEPT], weight[:, KEPT])
    gone = torch.tensor([1, 4, 5])
    torch.testing.assert_close(layer.bias, bias + weight[:, gone] @ a.mean(0)[gone])


def test_pieces_that_do_not_vary_explain_nothing() -> None:
    assert torch.equal(regressed(torch.ones(2, 3), torch.zeros(3, 3), 1e-3), torch.zeros(2, 3))
    assert regressed(torch.ones(2, 0), torch.zeros(0, 0), 1e-3).shape == (2, 0)


def test_gains_do_not_change_the_columns_but_the_constant_of_the_stream() -> None:
    layer, gains = nn.Linear(PIECES, WIDTH), torch.tensor([0.5, 2.0, 0.0, 1.0])
    before = layer.bias.detach().clone()
    Outlet(layer, gains=gains).shift_stream(torch.ones(WIDTH, dtype=torch.float64))
    torch.testing.assert_close(layer.bias - before, torch.tensor([2.0, 0.5, 0.0, 1.0]))  # through no gain of zero


def test_a_batch_norm_behind_takes_the_constant() -> None:
    layer, norm = nn.Conv2d(PIECES, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
        norm.running_var.fill_(4.0)
    x, by = torch.randn(2, PIECES, 3, 3), torch.arange(4.0).double()
    wanted = norm(layer(x)) + by.float().view(-1, 1, 1)
    Outlet(layer, norm).shift_stream(by)
    torch.testing.assert_close(norm(layer(x)), wanted)


def test_without_a_bias_means_are_regressed_too() -> None:
    """As least squares of the rows as they are, which no constant helps."""
    a, layer = activations(), nn.Linear(PIECES, WIDTH, bias=False)
    wanted = layer(a).detach().double().numpy()
    fold(Outlet(layer), KEPT, joint_of(a, KEPT), "regression", 1e-12)
    expected = np.linalg.lstsq(a[:, KEPT].double().numpy(), wanted, rcond=None)[0].T
    np.testing.assert_allclose(layer.weight[:, KEPT].detach().numpy(), expected, atol=1e-4)
