"""Gate networks: their cost, their start, their statistics, and the choice among them."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_vitc.dynamic.gate_places import places_of
from lightning_vitc.dynamic.gate_selection import GateSelection
from lightning_vitc.networks.gates.networks import MOMENTUM, GateNetwork, RunningNorm, settle
from lightning_vitc.networks.gates.shapes import GATES, gate_macs, gate_params

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
    return GateSelection([48, 48], names)


def candidates(gates: GateSelection) -> list[list[GateNetwork]]:
    """Every gate's candidates as networks of their own."""
    return [[gates.stacks[0].unit(gate, number) for number in range(len(gates.names))] for gate in range(4)]


def margins(gates: GateSelection, pooled: torch.Tensor, frozen: bool = False) -> torch.Tensor:
    """Of all gates, asked one after another for their own pooled tokens [4, B, D]."""
    deciding = gates.deciding(gates.mixture(frozen))[0]
    return torch.stack([deciding.margin(own) for own in pooled])


def one_by_one(networks: list[list[GateNetwork]], shares: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """The same by definition: candidates on their own, mixed by their shares."""
    mixed = []
    for row, share, own in zip(networks, shares, pooled, strict=True):
        skip, run = sum(part * network(own) for part, network in zip(share, row, strict=True)).unbind(-1)
        mixed.append(run - skip)
    return torch.stack(mixed)


def scattered(gates: GateSelection) -> GateSelection:
    """All weights and statistics as a training leaves them: no two alike."""
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        for name, buffer in gates.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return gates


@pytest.mark.parametrize("names", [NAMES, *[(name,) for name in NAMES], NAMES[::-1]])
def test_gates_together_are_each_gate_on_its_own(names: tuple[str, ...]) -> None:
    """Decisions, statistics, and the gradients of all that takes part, though they are taken late and at once."""
    gates, pooled = scattered(selection(names)), torch.randn(4, 5, 48)
    networks, architecture = candidates(gates), gates.architecture.detach().clone().requires_grad_()
    weight, seen, alone = torch.randn(4, 5), pooled.clone().requires_grad_(), pooled.clone().requires_grad_()
    found, wanted = margins(gates, seen), one_by_one(networks, architecture.flatten(0, 1).softmax(-1), alone)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(seen.grad, alone.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gates.architecture.grad, architecture.grad, rtol=1e-4, atol=1e-5)
    places = places_of(gates.stacks[0].order)
    for gate, row in enumerate(networks):
        for network in row:
            for key, own in network.named_parameters():
                group, place = places[network.name][key]
                grad = gates.stacks[0].get_parameter(group).grad
                torch.testing.assert_close(grad[gate, place], own.grad, rtol=1e-4, atol=1e-5)
    settle(gates)
    for row, after in zip(networks, candidates(gates), strict=True):
        for network, moved in zip(row, after, strict=True):
            settle(network)
            for key, buffer in network.named_buffers():
                torch.testing.assert_close(moved.get_buffer(key), buffer)


def test_a_gradient_takes_a_later_gates_part_along() -> None:
    """What a gate decides changes what the next one sees, as in a network."""
    gates, x = scattered(selection()), torch.randn(5, 48)
    networks, shares = candidates(gates), gates.mixture(False).detach().flatten(0, 1)

    def chained(ask: Any, start: torch.Tensor) -> torch.Tensor:
        for gate in range(4):
            start = start + 0.5 * ask(gate, start).sigmoid()[:, None]
        return start.square().sum()

    deciding = gates.deciding(gates.mixture(False))[0]
    mine, own = x.clone().requires_grad_(), x.clone().requires_grad_()
    chained(lambda _, pooled: deciding.margin(pooled), mine).backward()
    chained(lambda gate, pooled: one_by_one([networks[gate]], shares[gate : gate + 1], pooled[None])[0], own).backward()
    torch.testing.assert_close(mine.grad, own.grad, rtol=1e-4, atol=1e-5)
    wanted = torch.stack([torch.stack([network.last.bias.grad for network in row]) for row in networks])
    order = [NAMES.index(name) for name in gates.stacks[0].order]
    torch.testing.assert_close(gates.stacks[0].last_bias.grad, wanted[:, order], rtol=1e-4, atol=1e-5)


def test_states_of_candidates_that_were_modules_are_read() -> None:
    gates = scattered(selection())
    now = {f"gates.{name}": value for name, value in gates.state_dict().items()}
    old = {name: value for name, value in now.items() if not name.startswith("gates.stacks.")}
    for gate, row in enumerate(candidates(gates)):
        for number, network in enumerate(row):
            old |= {f"gates.candidates.{gate}.{number}.{key}": value for key, value in network.state_dict().items()}
    found = selection().of_today(old, "gates.")
    assert found.keys() == now.keys()
    assert all(torch.equal(value, now[name]) for name, value in found.items())
    assert gates.of_today(now, "gates.") == now
    of_one_stack = {name.replace("stacks.0.", "stack."): value for name, value in now.items()}
    assert gates.of_today(of_one_stack, "gates.") == now


def test_the_cost_is_mixed_by_the_softmax() -> None:
    gates = scattered(selection())
    macs = torch.tensor([float(gate_macs(name, 48)) for name in NAMES])
    torch.testing.assert_close(gates.cost(gates.mixture(False)), (gates.architecture.softmax(-1) @ macs).sum())


def test_frozen_the_winner_decides_and_stays() -> None:
    gates, pooled = scattered(selection()), torch.randn(4, 5, 48)
    best = gates.architecture.argmax(-1)
    gates.freeze()
    with torch.no_grad():
        gates.architecture.neg_()  # what an optimizer's momentum might do
    gates.freeze()
    assert torch.equal(gates.chosen.argmax(-1), best)
    found = margins(gates, pooled, frozen=True)
    for gate, network in enumerate(network for pair in gates.winners() for network in pair):
        assert network.name == NAMES[best.flatten()[gate]]
        skip, run = network(pooled[gate]).unbind(-1)
        torch.testing.assert_close(found[gate], run - skip, rtol=1e-5, atol=1e-5)


def test_the_choice_learns_towards_the_better_network() -> None:
    """The target is what the last candidate computes: its share grows."""
    gates, pooled = selection(), torch.randn(4, 64, 48)
    with torch.no_grad():
        gates.stacks[0].last_weight.normal_()
        gates.stacks[0].linear_weight.normal_()
        last = [[row[-1]] for row in candidates(gates)]
        wanted = one_by_one(last, torch.ones(4, 1), pooled)
    optimizer = torch.optim.SGD([gates.architecture], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        (margins(gates, pooled) - wanted)[0].square().mean().backward()
        optimizer.step()
    assert gates.architecture[0, 0].argmax() == 6


@pytest.mark.parametrize("frozen", [False, True])
def test_every_parameter_has_a_gradient(frozen: bool) -> None:
    """DDP waits for all of them."""
    gates, pooled = selection(), torch.randn(4, 5, 48)
    gates.freeze()
    margins(gates, pooled, frozen).sum().backward()
    assert all(parameter.grad is not None for parameter in gates.parameters())


def test_a_variance_of_nothing_is_not_negative_by_rounding() -> None:
    """Of inputs that are always the same; without a bound some of a thousand are about -1e-6."""
    norm = RunningNorm(1000)
    same = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3
    norm.running_mean.copy_(same), norm.running_var.zero_()
    norm(same.expand(8, -1))
    settle(norm)
    assert float(norm.running_var.min()) >= 0


def test_branches_that_cannot_be_skipped_have_no_gate() -> None:
    """The others decide as they would if all had one, and cost what they cost."""
    gated = torch.tensor([[False, True], [False, False], [False, True]])
    torch.manual_seed(0)
    gates = GateSelection([8, 8, 16], ("relu", "linear"), gated=gated)
    assert [[one and one.dim for one in pair] for pair in gates.winners()] == [[None, 8], [None, None], [None, 16]]
    deciding = gates.deciding(gates.mixture(False))
    assert [*deciding] == [0, 2]
    pooled = torch.randn(3, 16)
    margin = deciding[2].margin(pooled)
    mixed = sum(gates.stacks[1].unit(0, number)(pooled) for number in range(2)) / 2
    torch.testing.assert_close(margin, mixed[:, 1] - mixed[:, 0])
    whole = GateSelection([8, 8, 16], ("relu", "linear"))
    assert gates.cost(gates.mixture(False)) < whole.cost(whole.mixture(False)) / 1.9
    asked = deciding[0].margin(pooled[:, :8]).sum() + margin.sum()
    (gates.cost(gates.mixture(False)) + asked).backward()
    assert all(weight.grad is not None for weight in gates.parameters())
