"""Skip gates: sampled alike everywhere, updated at their own pace, decided once within the budget."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_vitc.budget.gates import SkipGates


def gates(unit: str = "block", depth: int = 8, chances: list[float] | None = None, **options: int) -> SkipGates:
    made = SkipGates(depth, unit, **options)  # type: ignore[arg-type]
    if chances is not None:
        probability = torch.tensor(chances).view(depth, -1)
        with torch.no_grad():
            made.logits[..., 0], made.logits[..., 1] = 0.0, (probability / (1 - probability)).log()
    return made


def test_the_papers_initial_probability() -> None:
    assert gates().probability().unique().item() == pytest.approx(0.8808, abs=1e-4)


@pytest.mark.parametrize(("unit", "shape"), [("block", (8,)), ("sublayer", (8, 2))])
def test_samples_follow_the_probability_and_the_step_alone(unit: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    first = [gates(unit).sample(step, 0.5) for step in range(400)]
    torch.manual_seed(1)
    again = [gates(unit).sample(step, 0.5) for step in range(400)]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    stacked = torch.stack(first)
    assert stacked.shape[1:] == shape
    assert set(stacked.unique().tolist()) == {0.0, 1.0}
    assert float(stacked.detach().mean()) == pytest.approx(0.8808, abs=0.02)
    other = gates(unit, seed=1).sample(0, 0.5), gates(unit, seed=1).sample(1, 0.5), gates(unit, seed=1).sample(2, 0.5)
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=False))


def test_the_noise_of_a_sample_is_gumbels(monkeypatch: pytest.MonkeyPatch) -> None:
    """-ln(-ln u): -0.4759 for u = 0.2 of skip, 1.0309 for u = 0.7 of run; of equal logits, then, the gate runs.

    At a temperature of 0.5 the soft gate is sigmoid(2 x 1.5068) = 0.95317; its slope in a logit is 2 s (1 - s).
    """
    made = gates(chances=[0.5] * 8)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0.2, 0.7]).expand(8, 1, 2))
    gate = made.sample(0, 0.5)
    assert gate.tolist() == [1.0] * 8
    gate.sum().backward()
    assert made.logits.grad is not None
    assert made.logits.grad[..., 1].flatten().tolist() == pytest.approx([0.08927] * 8, abs=1e-4)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0.7, 0.2]).expand(8, 1, 2))
    assert made.sample(0, 0.5).tolist() == [0.0] * 8


def test_the_gradient_is_that_of_the_soft_sample() -> None:
    made = gates()
    made.sample(3, 0.5).sum().backward()
    gradient = made.logits.grad
    assert gradient is not None
    assert torch.allclose(gradient[..., 0], -gradient[..., 1], atol=1e-6)
    assert bool((gradient[..., 1] > 0).all())


@pytest.mark.parametrize("unit", ["block", "sublayer"])
def test_given_gates_have_a_gradient_of_zero(unit: str) -> None:
    made = gates(unit)
    for value in (0.5, torch.ones(8, 2)):
        made.logits.grad = None
        made.constant(value).sum().backward()
        assert made.logits.grad is not None
        assert not made.logits.grad.any()


def test_an_update_is_the_mean_of_several_steps() -> None:
    made, seen = gates(every=3), []
    for step in range(6):
        made.logits.grad = torch.full_like(made.logits, float(step))
        made.collect(step, training=True)
        seen.append(None if made.logits.grad is None else float(made.logits.grad.mean()))
    assert seen == [None, None, 1.0, None, None, 4.0]


def test_gates_that_are_not_trained_are_not_moved_and_forget() -> None:
    made = gates(every=2)
    made.logits.grad = torch.ones_like(made.logits)
    made.collect(0, training=True)
    made.logits.grad = torch.ones_like(made.logits)
    made.collect(1, training=False)
    assert made.logits.grad is None
    assert not made.gradient.any()


def cost(share: float = 1.0, attn: int = 1, mlp: int = 2) -> Callable[[Tensor], int]:
    """A block costs 3, 2 of them its MLP, or a share of it where it is pruned."""
    return lambda branches: int(share * float((branches * torch.tensor([attn, mlp])).sum()))


CHANCES = [0.9, 0.2, 0.8, 0.3, 0.7, 0.6, 0.1, 0.95]


def decide(made: SkipGates, limit: int, share: float = 0.1, blocks: int = 1) -> list[bool]:
    return made.decide(cost(), cost(share), limit, blocks).any(-1).tolist()


def test_the_larger_logit_decides_where_pruning_can_do_the_rest() -> None:
    assert decide(gates(chances=CHANCES), limit=12) == [chance > 0.5 for chance in CHANCES]


def test_the_likeliest_are_added_until_there_is_something_to_prune() -> None:
    assert decide(gates(chances=CHANCES), limit=17) == [True, False, True, True, True, True, False, True]


def test_the_unlikeliest_are_left_out_where_pruning_cannot_reach_the_budget() -> None:
    assert decide(gates(chances=CHANCES), limit=10, share=1.0) == [True, False, True, False, False, False, False, True]
    assert decide(gates(chances=CHANCES), limit=6, share=0.5) == [True, False, True, False, True, False, False, True]


def test_at_least_so_many_blocks_run() -> None:
    low = gates(chances=[0.1, 0.2, 0.3, 0.4, 0.05, 0.06, 0.07, 0.08])
    assert decide(low, limit=6, blocks=4) == [True, True, True, True, False, False, False, False]


def test_without_pruning_the_budget_is_filled_and_never_exceeded() -> None:
    for limit in range(3, 25):
        running = gates(chances=CHANCES).decide(cost(), cost(), limit, 1)
        assert limit - 3 < cost()(running) <= limit
        halves = [chance for chance in CHANCES for _ in range(2)]
        running = gates("sublayer", chances=halves).decide(cost(), cost(), limit, 1)
        assert limit - 1 <= cost()(running) <= limit


def test_what_was_left_out_too_generously_comes_back_to_the_last_unit() -> None:
    """Of 6 the last attention (1) and the last MLP (2) are left out; 3 run, and within 4 there is room for the 1."""
    running = gates("sublayer", depth=2, chances=[0.9, 0.8, 0.6, 0.7]).decide(cost(), cost(), 4, 1)
    assert running.tolist() == [[True, True], [True, False]]


def test_a_block_is_skipped_whole() -> None:
    running = gates(chances=CHANCES).decide(cost(), cost(0.1), 12, 1)
    assert torch.equal(running[:, 0], running[:, 1])


def test_attention_stays_where_mlps_would_do_for_the_budget() -> None:
    halves = [chance for _ in range(8) for chance in (0.1, 0.9)]  # no attention wants to run
    running = gates("sublayer", chances=halves).decide(cost(), cost(0.1), 12, 3)
    assert int(running[:, 0].sum()) >= 3


def test_an_overflow_does_not_reach_the_gates() -> None:
    made = gates(every=2)
    for step, value in enumerate((float("inf"), 1.0)):
        made.logits.grad = torch.full_like(made.logits, value)
        made.collect(step, training=True)
    assert made.logits.grad is not None
    assert made.logits.grad.unique().tolist() == [0.5]
