"""One optimizer step sees the same images, however many processes and accumulated batches share it."""

import pytest

from lightning_vitc.data.sampler import EpochBatchSampler, ShardBatchSampler
from lightning_vitc.errors import UserError


def _steps(world_size: int, accumulate: int, epoch: int = 2, **keys) -> list[list[tuple[int, int]]]:
    """The keys of every optimizer step, all ranks together."""
    keys = {"batch_size": 24, "seed": 5} | keys
    ranks = []
    for rank in range(world_size):
        sampler = EpochBatchSampler(100, world_size=world_size, rank=rank, accumulate=accumulate, **keys)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    steps = []
    for step in range(len(ranks[0]) // accumulate):
        micro = range(step * accumulate, (step + 1) * accumulate)
        steps.append([key for a in micro for batches in ranks for key in batches[a]])
    return steps


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_do_not_depend_on_who_shares_them(world_size, accumulate):
    assert _steps(world_size, accumulate) == _steps(1, 1)


def test_an_epoch_is_a_permutation_without_the_rest():
    steps = _steps(1, 1)
    keys = [key for step in steps for key in step]
    assert len(steps) == 4  # 100 // 24
    assert len(set(keys)) == 96
    assert {epoch for _, epoch in keys} == {2}
    assert {index for index, _ in keys} <= set(range(100))


@pytest.mark.parametrize(("world_size", "accumulate", "sizes"), [
    (1, 1, [24] * 4 + [4]), (2, 1, [24] * 4 + [4]), (2, 4, [24] * 4), (1, 3, [24] * 4 + [3]),
])  # fmt: skip
def test_the_rest_can_be_a_smaller_batch(world_size, accumulate, sizes):
    """As far as it divides into processes and accumulated batches."""
    steps = _steps(world_size, accumulate, partial=True)
    assert [len(step) for step in steps] == sizes
    assert [len(step) for step in _steps(1, 1, partial=True, batch_size=1000)] == [100]
    keys = [key for step in steps for key in step]
    assert len(set(keys)) == len(keys)


def test_fewer_images_than_slots():
    with pytest.raises(UserError, match=r"data.batch_size: 128 is more than the 100 training images; at most 0"):
        _steps(128, 1, partial=True, batch_size=128)


def test_the_order_is_a_function_of_seed_and_epoch():
    assert _steps(1, 1) == _steps(1, 1)
    assert _steps(1, 1) != _steps(1, 1, seed=6)
    first = [[index for index, _ in step] for step in _steps(1, 1, epoch=0)]
    second = [[index for index, _ in step] for step in _steps(1, 1, epoch=1)]
    assert first != second


def test_without_reshuffling_every_epoch_has_the_same_images():
    first, second = _steps(1, 1, epoch=0, reshuffle=False), _steps(1, 1, epoch=1, reshuffle=False)
    assert [[index for index, _ in step] for step in first] == [[index for index, _ in step] for step in second]


def test_start_leaves_out_batches():
    sampler = EpochBatchSampler(100, batch_size=10, seed=0)
    whole = list(sampler)
    sampler.start = 7
    assert list(sampler) == whole[7:]
    assert len(sampler) == 10


def test_slots_number_the_parts_of_a_step():
    slots = [
        EpochBatchSampler(96, batch_size=24, seed=0, world_size=2, rank=rank, accumulate=3).slot(batch)
        for batch in range(3, 6)
        for rank in range(2)
    ]
    assert slots == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"batch_size": 100, "world_size": 3, "accumulate": 2},
            "data.batch_size: 100 images do not divide over 3 processes x 2 accumulated batches;"
            " 102 is the nearest that does",
        ),
        (
            {"batch_size": 1, "world_size": 4},
            "data.batch_size: 1 image does not divide over 4 processes x 1 accumulated batch;"
            " 4 is the nearest that does",
        ),
        (
            {"batch_size": 64, "world_size": 4},
            "data.batch_size: 64 is more than the 50 training images; at most 48",
        ),
    ],
)
def test_messages(keys, message):
    with pytest.raises(UserError) as error:
        EpochBatchSampler(50, seed=0, **keys)
    assert str(error.value) == message


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize("num_images", [4, 9, 17, 40])
def test_shards_partition_the_split(num_images, batch_size, world_size):
    shards = [
        ShardBatchSampler(num_images, batch_size=batch_size, world_size=world_size, rank=rank)
        for rank in range(world_size)
    ]
    batches = [list(shard) for shard in shards]
    seen = [index for rank in batches for batch in rank for index, _ in batch]
    assert sorted(seen) == list(range(num_images))
    assert {len(rank) for rank in batches} == {len(shards[0])}  # the same number of batches everywhere
    assert all(batch for rank in batches for batch in rank)
    assert [index for batch in batches[0] for index, _ in batch] == list(range(0, num_images, world_size))


def test_a_batch_is_as_large_as_asked_for():
    assert [len(batch) for batch in ShardBatchSampler(10, batch_size=4)] == [4, 4, 2]


def test_a_split_smaller_than_the_world():
    with pytest.raises(UserError, match=r"trainer\.devices: 4 processes cannot share the 3 images"):
        ShardBatchSampler(3, batch_size=4, world_size=4)


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 2), (2, 1), (3, 1), (4, 2)])
def test_repeated_augmentation_is_deits(world_size, accumulate):
    """Each image of the order thrice in a row, from which the slots take turns; the epoch is as long as without."""
    steps = _steps(world_size, accumulate, repeats=3)
    sampler = EpochBatchSampler(100, batch_size=100, seed=5)
    sampler.set_epoch(2)
    order = [index for index, _ in next(iter(sampler))]
    repeated = [(index, 2, repeat) for index in order for repeat in range(3)]
    assert [len(step) for step in steps] == [24] * 4
    slots = world_size * accumulate
    for number, step in enumerate(steps):
        whole = repeated[24 * number : 24 * number + 24]
        assert step == [key for slot in range(slots) for key in whole[slot::slots]]


def test_repeats_of_an_image_are_on_different_processes():
    ranks = []
    for rank in range(3):
        ranks.append([key for batch in EpochBatchSampler(90, batch_size=30, seed=0, world_size=3, rank=rank, repeats=3)
                      for key in batch])  # fmt: skip
    assert all(len({index for index, _, _ in keys}) == len(keys) == 30 for keys in ranks)
    assert len({frozenset(index for index, _, _ in keys) for keys in ranks}) == 1


def test_repeats_resume_where_they_stopped():
    sampler = EpochBatchSampler(100, batch_size=10, seed=0, repeats=3)
    whole = list(sampler)
    sampler.start = 7
    assert list(sampler) == whole[7:]
