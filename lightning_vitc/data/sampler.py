"""Which images make which batch, for any number of processes and of accumulated batches."""

from collections.abc import Iterator

from lightning_vitc.data.batches import Key
from lightning_vitc.data.seeding import stream
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted

REPEATS = 3  # of an image in DeiT's repeated augmentation


class EpochBatchSampler:
    """Training batches. The order of the images is a function of (seed, epoch) alone.

    It is cut into global batches of `batch_size` images, one per optimizer step; what is left over is
    dropped, or with `partial` makes a smaller batch, as far as it divides into the slots. A global batch is
    cut into world_size x accumulate slots: micro-batch `a` of rank `r` is slot a * world_size + r. So a step
    sees the same images however many processes share it.

    With `repeats`, the order holds every image so many times in a row and an epoch ends where it would without them,
    so it has that part of the images; keys then are (index, epoch, repeat). The repeats go to different slots,
    hence to different processes where there are as many (Hoffer et al., arXiv:1901.09335, as DeiT does it).

    Raises UserError where `batch_size` does not divide into the slots, or without `partial` exceeds the training
    set.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        reshuffle: bool = True,
        partial: bool = False,
        repeats: int = 1,
    ) -> None:
        _check_batch_size(batch_size, num_images, world_size, accumulate, partial)
        self.epoch = 0
        self.start = 0  # batches that the next iterator leaves out
        self.accumulate = accumulate
        self._num_images = num_images
        self._batch_size = batch_size
        self._seed = seed
        self._world_size = world_size
        self._rank = rank
        self._reshuffle = reshuffle
        self._repeats = repeats
        slots = world_size * accumulate
        usable = num_images // slots * slots if partial else num_images // batch_size * batch_size
        self._steps = -(-usable // batch_size)
        self._usable = usable

    @property
    def sampler(self) -> "EpochBatchSampler":
        """Itself: Lightning calls `set_epoch` on `loader.batch_sampler.sampler`."""
        return self

    @property
    def fingerprint(self) -> dict[str, int]:
        """What a position in an epoch depends on."""
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "accumulate": self.accumulate,
            "num_images": self._num_images,
            "repeats": self._repeats,
        }

    @property
    def smallest(self) -> int:
        """Images of the smallest batch of an epoch, which is the last one."""
        return (self._usable - (self._steps - 1) * self._batch_size) // (self._world_size * self.accumulate)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iterator."""
        self.epoch = epoch

    def slot(self, batch: int) -> tuple[int, int]:
        """Batch number `batch` of this rank's epoch: its optimizer step and its slot in the global batch."""
        step, micro = divmod(batch, self.accumulate)
        return step, micro * self._world_size + self._rank

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self._steps * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        # Not a generator itself: the epoch and the start are read now, not at the first batch.
        return self._batches(self.epoch, self.start)

    def _batches(self, epoch: int, start: int) -> Iterator[list[Key]]:
        order = stream("order", self._seed, epoch if self._reshuffle else 0).permutation(self._num_images)
        for batch in range(start, len(self)):
            step, slot = self.slot(batch)
            images = min(self._batch_size, self._usable - step * self._batch_size)  # of this step
            size = images // (self._world_size * self.accumulate)
            places = range(step * self._batch_size, step * self._batch_size + images)
            if self._repeats == 1:
                yield [(int(order[place]), epoch) for place in places[slot * size :][:size]]
            else:
                shared = places[slot :: self._world_size * self.accumulate]
                yield [(int(order[place // self._repeats]), epoch, place % self._repeats) for place in shared]


def _check_batch_size(batch_size: int, num_images: int, world_size: int, accumulate: int, partial: bool) -> None:
    slots = world_size * accumulate
    if batch_size % slots:
        nearest = max(round(batch_size / slots), 1) * slots
        raise UserError(
            f"data.batch_size: {counted(batch_size, 'image does', 'images do')} not divide over "
            f"{counted(world_size, 'process')} x {counted(accumulate, 'accumulated batch')}; {nearest} is the nearest "
            "that does"
        )
    if num_images < slots if partial else batch_size > num_images:
        largest = num_images // slots * slots
        raise UserError(
            f"data.batch_size: {batch_size} is more than the {counted(num_images, 'training image')}; at most {largest}"
        )


class ShardBatchSampler:
    """Evaluation batches: rank `r` of W takes images r, r + W, r + 2W, ..., each image exactly once.

    Every rank has the same number of batches, because a model with buffers under DDP synchronizes them in
    every forward pass, evaluation included: a rank with one batch more would wait for ever. Where the
    last batch of a rank would be empty, it takes an image of the batch before it.
    """

    def __init__(self, num_images: int, *, batch_size: int, world_size: int = 1, rank: int = 0) -> None:
        if num_images < world_size:
            processes, images = counted(world_size, "process"), counted(num_images, "image")
            raise UserError(f"trainer.devices: {processes} cannot share the {images} of a split")
        self._indices = range(rank, num_images, world_size)
        self._batch_size = batch_size
        self._length = min(-(-num_images // (world_size * batch_size)), num_images // world_size)

    def __len__(self) -> int:
        """Batches, the same on every rank."""
        return self._length

    def __iter__(self) -> Iterator[list[Key]]:
        total = len(self._indices)
        ends = [min((k + 1) * self._batch_size, total - (len(self) - k - 1)) for k in range(len(self) - 1)]
        for start, end in zip([0, *ends], [*ends, total], strict=True):
            yield [(index, 0) for index in self._indices[start:end]]
