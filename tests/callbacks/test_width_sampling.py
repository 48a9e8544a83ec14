import random
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from lightning_vitc.callbacks.width_sampling import WidthSampling, draw_widths

SAMPLINGS = ("paper", "official_bins", "uniform")
STEPS = 3000


def grid(count: int, s: Fraction = Fraction(1, 4), l: Fraction = Fraction(1)) -> list[Fraction]:  # noqa: E741
    return [s + (l - s) * number / (count - 1) for number in range(count)]


def draws(widths: list[Fraction], sampling: str) -> list[tuple[Fraction, ...]]:
    return [draw_widths(widths, sampling, 0, step) for step in range(STEPS)]


@pytest.mark.parametrize("sampling", ["paper", "official_bins"])
def test_four_widths_are_all_trained_in_every_step(sampling):
    assert set(draws(grid(4), sampling)) == {(Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(1, 4))}


GRIDS = {
    "7": grid(7),
    "13": grid(13),
    "25": grid(25),
    "s of a half": grid(9, s=Fraction(1, 2)),
    "an even number": grid(12),
    "l less than 1": grid(7, s=Fraction(1, 5), l=Fraction(4, 5)),
}


@pytest.mark.parametrize("sampling", ["paper", "official_bins"])
@pytest.mark.parametrize("name", GRIDS)
def test_each_bin_is_drawn_whole_and_evenly(name, sampling):
    widths = GRIDS[name]
    middle = (widths[0] + widths[-1]) / 2
    lower = [width for width in widths[1:-1] if width < middle or (width == middle and sampling == "paper")]
    upper = [width for width in widths[1:-1] if width not in lower]
    drawn = draws(widths, sampling)
    assert {(full, smallest) for full, _, _, smallest in drawn} == {(widths[-1], widths[0])}
    for position, expected in ((1, upper), (2, lower)):
        counts = Counter(draw[position] for draw in drawn)
        assert set(counts) == set(expected)
        assert chisquare(list(counts.values())).pvalue > 0.001
    pairs = Counter((m1, m2) for _, m2, m1, _ in drawn)
    assert len(pairs) == len(lower) * len(upper), "the two draws are independent"


def test_bins_of_seven_written_out():
    eighths = [Fraction(number, 8) for number in range(2, 9)]
    assert grid(7) == eighths  # the middle is 5/8
    for sampling, lower, upper in (("paper", {3, 4, 5}, {6, 7}), ("official_bins", {3, 4}, {5, 6, 7})):
        drawn = draws(eighths, sampling)
        assert {8 * m1 for _, _, m1, _ in drawn} == lower
        assert {8 * m2 for _, m2, _, _ in drawn} == upper


@pytest.mark.parametrize("count", [4, 7, 13, 25])
def test_uniform_sampling_draws_two_of_all_in_between(count):
    widths = grid(count)
    between = widths[1:-1]
    drawn = draws(widths, "uniform")
    counts: Counter[Fraction] = Counter()
    for full, *middles, smallest in drawn:
        assert (full, smallest) == (1, Fraction(1, 4))
        assert middles == sorted(middles, reverse=True)
        counts.update(middles)
    assert set(counts) == set(between)
    assert chisquare([counts[width] for width in between]).pvalue > 0.001
    equal = sum(len(set(draw)) == 3 for draw in drawn)
    assert chisquare([equal, STEPS - equal], [STEPS / len(between), STEPS - STEPS / len(between)]).pvalue > 0.001


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_degenerate_grids(sampling):
    assert set(draws(grid(2), sampling)) == {(Fraction(1), Fraction(1, 4))}
    middle = [Fraction(5, 8)] * (2 if sampling == "uniform" else 1)  # two draws of the only one
    assert set(draws(grid(3), sampling)) == {(Fraction(1), *middle, Fraction(1, 4))}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_draw_depends_on_seed_and_step_alone(sampling):
    widths = grid(25)
    random.seed(1)
    torch.manual_seed(1)
    forward = [draw_widths(widths, sampling, 3, step) for step in range(100)]
    random.seed(2)
    torch.manual_seed(2)
    state = random.getstate(), torch.get_rng_state()
    backward = [draw_widths(widths, sampling, 3, step) for step in reversed(range(100))]
    assert backward[::-1] == forward
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    assert [draw_widths(widths, sampling, 4, step) for step in range(100)] != forward
    assert len(set(forward)) > 50


def test_the_draw_is_the_same_in_every_process():
    """Written down, as strings hash otherwise in every process: ranks and resumed runs must agree."""
    drawn = [draw_widths(grid(25), "paper", 0, step)[1:3] for step in range(4)]
    assert [tuple(int(32 * width) for width in pair) for pair in drawn] == [(29, 10), (23, 10), (26, 17), (28, 17)]


# The callback


def module(count: int) -> SimpleNamespace:
    return SimpleNamespace(grid=grid(count), widths=None)


def start(callback: WidthSampling, target: SimpleNamespace, *, step: int, epoch: int = 0, batch: int = 0):
    trainer = SimpleNamespace(current_epoch=epoch, global_step=step, global_rank=step % 3)
    callback.on_train_batch_start(trainer, target, batch=None, batch_idx=batch)
    return target.widths


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_callback_sets_the_widths_of_the_step(sampling):
    callback, target = WidthSampling(sampling, seed=5), module(13)
    for step in range(20):
        assert start(callback, target, step=step) == draw_widths(grid(13), sampling, 5, step)


def test_micro_batches_of_a_step_share_the_draw():
    callback, target = WidthSampling(), module(25)
    assert start(callback, target, step=7, batch=0) == start(callback, target, step=7, batch=1, epoch=3)


def test_the_full_width_alone_in_the_first_epochs():
    callback, target = WidthSampling(full_warmup_epochs=2), module(13)
    assert start(callback, target, step=0, epoch=0) == (Fraction(1),)
    assert start(callback, target, step=9, epoch=1) == (Fraction(1),)
    assert start(callback, target, step=10, epoch=2) == draw_widths(grid(13), "paper", 0, 10)
    narrow = SimpleNamespace(grid=grid(3, l=Fraction(3, 4)), widths=None)
    assert start(callback, narrow, step=0, epoch=0) == (Fraction(3, 4),)


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws():
    whole = [start(WidthSampling(), module(25), step=step) for step in range(20)]
    first, second = WidthSampling(), WidthSampling()
    target = module(25)
    resumed = [start(first, target, step=step) for step in range(8)]
    assert not first.state_dict()
    resumed += [start(second, target, step=step) for step in range(8, 20)]
    assert resumed == whole
