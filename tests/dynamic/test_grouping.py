"""Group-level gates: who decides together, by which noise, with which gradient."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_vitc.dynamic.grouping import (
    GROUPINGS,
    GroupGates,
    generator_of,
    group_sizes,
    gumbel_noise,
    per_sample_positions,
    units,
)

CPU = torch.device("cpu")


@given(st.integers(1, 300), st.sampled_from(GROUPINGS), st.integers(0, 5))
def test_every_image_is_in_one_group(batch: int, grouping: str, seed: int) -> None:
    sizes = group_sizes(batch, grouping, torch.Generator().manual_seed(seed))
    assert sum(sizes) == batch
    assert min(sizes) >= 1
    assert not group_sizes(0, grouping, torch.Generator())


@pytest.mark.parametrize(
    ("batch", "grouping", "sizes"),
    [
        (32, "recursive", [16, 8, 4, 2, 1, 1]), (13, "recursive", [6, 3, 2, 1, 1]), (1, "recursive", [1]),
        (2, "recursive", [1, 1]), (13, "batch", [13]), (3, "sample", [1, 1, 1]), (20, "avg-8", [8, 8, 4]),
        (13, "avg-32", [13]), (64, "avg-32", [32, 32]), (1, "random", [1]),
    ],
)  # fmt: skip
def test_sizes(batch: int, grouping: str, sizes: list[int]) -> None:
    assert group_sizes(batch, grouping, torch.Generator()) == sizes


def test_random_groups_are_powers_of_two_and_change_with_the_step() -> None:
    drawn = [group_sizes(64, "random", generator_of(0, step, 0, "groups")) for step in range(20)]
    assert {size for sizes in drawn for size in sizes[:-1]} <= {1, 2, 4, 8, 16, 32, 64}
    assert len(set(map(tuple, drawn))) > 10
    assert {sizes[0] for sizes in drawn} >= {1, 64}, "of any size, the whole batch included"
    assert drawn[3] == group_sizes(64, "random", generator_of(0, 3, 0, "groups"))


def margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[..., 1] - logits[..., 0]


def decided(
    sizes: list[int], noise: torch.Tensor | None, logits: torch.Tensor, temperature: float = 1.0,
    alone: Sequence[int] = (),
) -> GroupGates:  # fmt: skip
    gates = GroupGates(sizes, noise, CPU, alone)
    for block, branch in units(logits.shape[1]):
        gates.decide(block, branch, margin(logits[:, block, branch]), temperature)
    return gates


def test_a_group_decides_by_its_mean_logits() -> None:
    logits = torch.tensor([[0.0, 3.0], [0.0, -1.0], [0.0, -1.0], [0.0, 0.5]])[:, None, None]
    gates = GroupGates([3, 1], None, CPU)
    assert gates.decide(0, 0, margin(logits[:, 0, 0]), 1.0).tolist() == [1, 1, 1, 1]
    gates = GroupGates([1, 2, 1], None, CPU)
    assert gates.decide(0, 0, margin(logits[:, 0, 0]), 1.0).tolist() == [1, 0, 0, 1]


def test_members_of_a_group_agree_in_noise_and_others_need_not() -> None:
    noise = gumbel_noise(32, 4, generator_of(0, 0, 0, "noise"))
    gates = decided(group_sizes(32, "recursive"), noise, torch.zeros(32, 4, 2, 2))
    runs = torch.stack([gates.run[unit] for unit in units(4)], dim=1)
    for part in runs.split([16, 8, 4, 2, 1, 1]):
        assert (part == part[:1]).all()
    assert len({tuple(row.tolist()) for row in runs}) > 3


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0, 1))
def test_images_that_decide_by_themselves_are_a_share_spread_evenly(first: int, batch: int, share: float) -> None:
    alone = per_sample_positions(0, batch, share)
    for end in range(batch + 1):
        assert sum(image < end for image in alone) == pytest.approx(end * share, abs=1 + 1e-6)
    assert alone == [*range(1, batch, 2)] or share != 0.5
    assert len(alone) == batch or share < 1
    whole = [image for image in per_sample_positions(0, first + batch, share) if image >= first]
    assert whole == [first + image for image in per_sample_positions(first, batch, share)]


def test_the_share_is_the_decimal_that_was_written() -> None:
    for hundredths in range(101):
        assert len(per_sample_positions(0, 100, hundredths / 100)) == hundredths


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_they_decide_without_noise_and_the_others_as_if_they_were_not_there(grouping: str, share: float) -> None:
    logits = torch.randn(32, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    noise, draw = gumbel_noise(32, 3, generator_of(0, 0, 0, "noise")), torch.Generator().manual_seed(1)
    alone = per_sample_positions(0, 32, share)
    others = [image for image in range(32) if image not in alone]
    sizes = group_sizes(len(others), grouping, draw)
    found = GroupGates(sizes, noise, CPU, alone)
    left = decided(sizes, noise[others], logits[others]) if others else None
    for block, branch in units(3):
        gate = found.decide(block, branch, margin(logits[:, block, branch]), 1.0)
        own = logits[alone, block, branch]
        assert torch.equal(gate[alone], (own[:, 1] > own[:, 0]).float())
        assert left is None or torch.equal(gate[others], left.run[block, branch])


def test_noise_is_gumbels() -> None:
    """Its mean is Euler's constant, its variance pi² / 6, and it leans to the right: ln 2 lies above 70.7 % of it."""
    noise = gumbel_noise(10000, 2, generator_of(3, 0, 0, "noise"))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert float((noise < math.log(2)).float().mean()) == pytest.approx(math.exp(-1 / 2), abs=0.01)


def test_noise_of_other_sign_would_decide_otherwise() -> None:
    """u = 0.2 of skip and 0.7 of run: -0.4759 and 1.0309."""
    noise = torch.tensor([-0.4759, 1.0309]).expand(1, 1, 2, 2)
    assert decided([1], noise, torch.zeros(1, 1, 2, 2)).run[0, 0].tolist() == [1.0]
    assert decided([1], noise, torch.tensor([1.6, 0.0]).expand(1, 1, 2, 2)).run[0, 0].tolist() == [0.0]


def test_noise_runs_a_branch_as_often_as_its_probability() -> None:
    noise = gumbel_noise(20000, 1, generator_of(3, 0, 0, "noise"))
    logits = torch.tensor([0.0, 1.0]).expand(20000, 1, 2, 2)
    run = decided([1] * 20000, noise, logits).mean_run(1)
    assert run.tolist() == [[pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.015)] * 2]


def test_hard_gates_have_the_gradient_of_the_soft_ones() -> None:
    logits = torch.tensor([[0.3, 0.1], [0.2, 0.9], [0.0, 0.4]], requires_grad=True)
    gates = GroupGates([2, 1], None, CPU)
    gate = gates.decide(0, 0, margin(logits), 0.5)
    assert set(gate.tolist()) <= {0.0, 1.0}
    gate.sum().backward()
    means = torch.stack([logits[:2].mean(0), logits[2]]).detach().requires_grad_()
    ((means / 0.5).softmax(-1)[:, 1] * torch.tensor([2.0, 1.0])).sum().backward()
    expected = torch.stack([means.grad[0] / 2, means.grad[0] / 2, means.grad[1]])
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("grouping", ["sample", "avg-8"])
def test_groups_within_a_process_decide_as_in_one(grouping: str) -> None:
    """32 images in one process, or 16 in each of two."""
    logits = torch.randn(32, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    whole = decided(group_sizes(32, grouping), gumbel_noise(32, 3, generator_of(0, 7, 0, "noise")), logits)
    parts = [
        decided(group_sizes(16, grouping), gumbel_noise(16, 3, generator_of(0, 7, 0, "noise"), rank, 2), part)
        for rank, part in enumerate(logits.split(16))
    ]
    for unit in units(3):
        assert torch.equal(whole.run[unit], torch.cat([part.run[unit] for part in parts]))


@pytest.mark.parametrize(("alone", "per_process", "rate"), [([1, 2, 3], 4.0, 0.5), ([1, 2], 2.0, 1.0), ([], 0.0, 0.5)])
def test_images_that_decide_alone_are_counted_as_part_of_those_of_all(alone, per_process, rate) -> None:
    """Images 1 and 2 of four run; a process that has three of them where the mean one has four counts them as 2 / 4."""
    gates = GroupGates([4 - len(alone)], None, CPU, alone, per_process)
    gates.decide(0, 0, torch.tensor([-1.0, 1.0, 1.0, -1.0]), 1.0)
    assert gates.mean_run_per_sample(1, 1.0).tolist() == [[pytest.approx(rate), 1.0]]
