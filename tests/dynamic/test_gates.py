"""Gate networks: their cost, their start, their statistics, and the choice among them."""

import pytest
import torch
from torch import nn

from lightning_vitc.dynamic.gate_networks import MOMENTUM, GateNetwork, RunningNorm, settle
from lightning_vitc.dynamic.gate_selection import GateSelection
from lightning_vitc.dynamic.gate_shapes import GATES, gate_macs, gate_params

NAMES = tuple(GATES)


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_the_network(name: str) -> None:
    gate = GateNetwork(name, 48)
    linears = [layer for layer in gate.modules() if isinstance(layer, nn.Linear)]
    assert gate_params(name, 48) == sum(parameter.numel() for parameter in gate.parameters())
    assert gate_macs(name, 48) == sum(layer.weight.numel() for layer in linears)


def test_the_seven_differ() -> None:
    assert len(NAMES) == 7
    assert len({str(GateNetwork(name, 48)) for name in NAMES}) == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_gate_starts_by_running_nine_times_of_ten(name: str) -> None:
    torch.manual_seed(0)
    logits = GateNetwork(name, 96).start()(torch.randn(200, 96))
    assert logits.softmax(-1)[:, 1].mean().item() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 13])
def test_training_decides_as_evaluation_does_and_in_parts_as_in_whole(name: str, size: int) -> None:
    torch.manual_seed(0)
    gate, pooled = GateNetwork(name, 48), torch.randn(size, 48)
    training = gate.train()(pooled)
    assert torch.equal(training, gate.eval()(pooled))
    torch.testing.assert_close(training, torch.cat([gate(row[None]) for row in pooled]), rtol=0, atol=1e-6)


def test_statistics_go_to_those_of_the_batches_seen() -> None:
    norm, generator = RunningNorm(3).train(), torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, -3.0, 4.0])
    for _ in range(120):
        for size in (1, 40):  # two parts of a step
            norm(torch.randn(size, 3, generator=generator) * scale + shift)
        settle(norm)
    normalized = norm.eval()(torch.randn(4000, 3, generator=generator) * scale + shift)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(3), rtol=0, atol=0.1)
    torch.testing.assert_close(normalized.std(0), torch.ones(3), rtol=0, atol=0.1)
    before = norm.running_mean.clone()
    settle(norm)
    assert torch.equal(norm.running_mean, before)  # nothing was seen in evaluation


def test_statistics_move_with_the_means_of_values_and_of_their_squares() -> None:
    norm, mean, square = RunningNorm(3).train(), torch.zeros(3), torch.ones(3)
    for seed in range(5):
        x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)) + 4 * seed
        norm(x)
        settle(norm)
        mean, square = mean.lerp(x.mean(0), MOMENTUM), square.lerp(x.square().mean(0), MOMENTUM)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, square - mean.square())


def selection(names: tuple[str, ...] = NAMES) -> GateSelection:
    torch.manual_seed(0)
    return GateSelection(2, 48, names)


def test_logits_are_mixed_by_the_softmax() -> None:
    gates, pooled = selection(), torch.randn(5, 48)
    with torch.no_grad():
        gates.architecture.normal_()
    shares = (gates.architecture[1, 0]).softmax(-1)
    expected = sum(share * network(pooled) for share, network in zip(shares, gates.candidates[2], strict=True))
    torch.testing.assert_close(gates.logits(1, 0, pooled, gates.mixture(False)), expected)
    macs = torch.tensor([float(gate_macs(name, 48)) for name in NAMES])
    expected = (gates.architecture.softmax(-1) @ macs).sum()
    torch.testing.assert_close(gates.cost(gates.mixture(False)), expected)


def test_frozen_the_winner_decides_and_stays() -> None:
    gates, pooled = selection(), torch.randn(5, 48)
    with torch.no_grad():
        gates.architecture.normal_()
    best = gates.architecture.argmax(-1)
    gates.freeze()
    with torch.no_grad():
        gates.architecture.neg_()  # what an optimizer's momentum might do
    gates.freeze()
    assert torch.equal(gates.chosen.argmax(-1), best)
    for block, pair in enumerate(gates.winners()):
        for branch, network in enumerate(pair):
            assert network.name == NAMES[best[block, branch]]
            logits = gates.logits(block, branch, pooled, gates.mixture(True))
            torch.testing.assert_close(logits, network(pooled))


def test_the_choice_learns_towards_the_better_network() -> None:
    """The target is what the last candidate computes: its share grows."""
    gates, pooled = selection(), torch.randn(64, 48)
    with torch.no_grad():
        for network in gates.candidates[0]:
            nn.init.normal_(network.last.weight, std=1.0)
        wanted = gates.candidates[0][-1](pooled)
    optimizer = torch.optim.SGD([gates.architecture], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        (gates.logits(0, 0, pooled, gates.mixture(False)) - wanted).square().mean().backward()
        optimizer.step()
    assert gates.architecture[0, 0].argmax() == 6


@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_has_a_gradient(frozen: bool) -> None:
    """DDP waits for all of them."""
    gates, pooled = selection(), torch.randn(5, 48)
    gates.freeze()
    mixture = gates.mixture(frozen)
    sum(gates.logits(*unit, pooled, mixture).sum() for unit in ((0, 0), (0, 1), (1, 0), (1, 1))).backward()
    assert all(parameter.grad is not None for parameter in gates.parameters())
