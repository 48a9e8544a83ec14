"""The loader by itself: positions, states, and the epoch that arrives after the iterator."""

import time

import pytest
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch

from lightning_vitc.errors import UserError


def _targets(batches) -> list[list[int]]:
    return [targets.tolist() for _, targets in batches]


@pytest.fixture
def loader(vision_data):
    def make(num_workers: int = 0, seed: int = 1, batch_size: int = 124, **keys):
        options = dict(num_workers=num_workers, seed=seed, batch_size=batch_size)
        return vision_data("digits", img_size=8, in_chans=1, no_aug=True, **options, **keys).train_dataloader()

    return make


def test_lightning_sets_the_epoch(loader):
    made = loader()
    _set_sampler_epoch(made, 3)
    assert made.position == (3, 0)


def test_the_epoch_may_be_set_after_the_iterator_is_made(loader):
    first, second = loader(), loader()
    _set_sampler_epoch(first, 2)
    expected = _targets(first)
    iterator = iter(second)
    _set_sampler_epoch(second, 2)
    assert _targets(iterator) == expected
    assert _targets(second) == expected
    _set_sampler_epoch(second, 3)
    assert _targets(second) != expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_state_counts_what_was_taken_and_not_what_was_prepared(loader, num_workers):
    made = loader(num_workers)
    _set_sampler_epoch(made, 1)
    iterator = iter(made)
    head = _targets([next(iterator) for _ in range(4)])
    state = made.state_dict()
    assert (state["epoch"], state["batches"]) == (1, 4)
    assert all(type(value) is int for value in state.values())

    resumed = loader(num_workers)
    resumed.load_state_dict(state)
    iterator = iter(resumed)  # Lightning's order: iterator first, then the epoch
    _set_sampler_epoch(resumed, 1)
    assert resumed.state_dict() == state  # saved again before anything was taken
    tail = _targets(iterator)
    whole = loader(0)
    _set_sampler_epoch(whole, 1)
    assert head + tail == _targets(whole)
    assert len(resumed) == 10  # the length of the epoch, not of what is left

    _set_sampler_epoch(resumed, 2)
    _set_sampler_epoch(whole, 2)
    assert _targets(resumed) == _targets(whole)  # only the interrupted epoch is cut


def test_the_state_of_a_finished_epoch_is_the_start_of_the_next(loader):
    made = loader()
    list(made)
    state = made.state_dict()
    assert state["batches"] == 10
    _set_sampler_epoch(made, 1)
    assert made.state_dict()["batches"] == 0
    resumed = loader()
    resumed.load_state_dict(state)
    _set_sampler_epoch(resumed, 1)
    assert len(list(resumed)) == 10
    again = loader()
    again.load_state_dict(state)
    assert list(again) == []  # the same epoch has nothing left


def test_an_abandoned_epoch_starts_anew(loader):
    made = loader(num_workers=1)
    next(iter(made))
    assert len(list(made)) == 10
    assert made.position == (0, 10)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": 62}, "data.batch_size: is 62, but the checkpoint was saved in mid-epoch with 124"),
        ({"seed": 2}, "seed: is 2, but the checkpoint was saved in mid-epoch with 1"),
        ({"accumulate": 2}, "trainer.accumulate_grad_batches: is 2, but the checkpoint was saved in mid-epoch with 1"),
        (
            {"num_samples": 500},
            "data: the number of training images: is 500, but the checkpoint was saved in mid-epoch with 1259",
        ),
    ],
)
def test_a_position_of_other_batches_is_refused(loader, keys, message):
    made = loader()
    next(iter(made))
    other = loader(**keys)
    other.load_state_dict(made.state_dict())
    with pytest.raises(UserError) as error:
        next(iter(other))
    assert str(error.value) == message + "; set it back, or start over"


def test_digits_cost_next_to_nothing(vision_data):
    made = vision_data("digits", img_size=8, in_chans=1, no_aug=True, batch_size=32).train_dataloader()
    list(made)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        batches = list(made)
        times.append((time.perf_counter() - start) / len(batches))
    assert min(times) < 1e-3


def test_batches_are_independent_tensors(loader):
    first, second = next(iter(loader())), next(iter(loader()))
    first[0].zero_()
    assert not torch.equal(first[0], second[0])
    assert second[0].is_contiguous()
