"""Data loaders that give batches (images, targets), and one that continues in mid-epoch."""

import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vitc.data.batches import Fetched
from lightning_vitc.data.sampler import EpochBatchSampler, ShardBatchSampler
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted

Batch = tuple[Tensor, Tensor]
"""Images float32 [B, C, H, W] and targets int64 [B]."""


def _as_fetched(fetched: Any) -> Fetched:
    return fetched  # the data sets return whole batches: nothing to collate


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE):  # torch's handlers write a line of their own
        signal.signal(number, signal.SIG_DFL)


class ImageLoader(DataLoader[Any]):
    """Yields the batches of a data set of `Fetched`, and reports the images that could not be used.

    Raises UserError with the path of such an image, the same with and without workers, where none may be missed.
    A batch of which no image is left is left out too.

    Attributes:
        unusable: paths of the images that were left out or replaced so far, by this process.
    """

    _treated = ("is left out", "are left out")

    def __init__(
        self,
        dataset: Dataset[Fetched],
        batch_sampler: EpochBatchSampler | ShardBatchSampler,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            worker_init_fn=_init_worker,
            collate_fn=_as_fetched,
            generator=torch.Generator(),  # a loader draws a seed for its workers: not from the global stream
        )
        self.unusable: set[str] = set()

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        known = len(self.unusable)
        try:
            for fetched in self._fetched():
                if fetched.error:
                    self._stop_workers()
                    raise UserError(fetched.error)
                self.unusable.update(fetched.unusable)
                if fetched.images is not None:
                    yield fetched.images, fetched.targets
        finally:  # Lightning takes as many batches as there are, and never asks whether that was all
            self._report(known)

    def _fetched(self) -> Iterator[Any]:
        try:
            yield from super().__iter__()
        except (EOFError, OSError) as error:  # a batch half handed over: torch looks for death only in between
            for worker in getattr(self._iterator, "_workers", ()):
                worker.join(1)
                if not worker.is_alive():
                    raise RuntimeError(f"DataLoader worker (pid {worker.pid}) exited unexpectedly") from error
            raise

    def _report(self, known: int) -> None:
        if len(self.unusable) > known:
            one, many = self._treated
            images = counted(len(self.unusable), f"image cannot be used and {one}", f"images cannot be used and {many}")
            warnings.warn(
                f"{images} (data.on_error=skip), among them {min(self.unusable)}",
                stacklevel=2,
            )

    def _stop_workers(self) -> None:
        """At once: workers that the garbage collector finds in a traceback are waited for, for 5 seconds."""
        if self.num_workers and self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None


class ResumableLoader(ImageLoader):
    """A training loader whose state is the number of batches its consumer has taken in this epoch.

    Batches that workers have prepared ahead are not counted. Lightning saves `state_dict` with the
    checkpoint and calls `load_state_dict` before it asks for an iterator; it asks for that before it sets
    the epoch, therefore nothing is decided until the first batch is wanted. The position counts only if
    that batch belongs to the epoch that was interrupted.

    `epoch` is asked for the epoch of that batch; by default it is what `set_epoch` was told. (Lightning
    2.6.6 tells one too many after a resume from the end of an epoch with `max_steps`.)
    """

    _treated = ("is replaced by its successor", "are replaced by their successors")

    def __init__(
        self,
        dataset: Dataset[Fetched],
        batch_sampler: EpochBatchSampler,
        *,
        epoch: Callable[[], int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset, batch_sampler, **options)
        self.order = batch_sampler
        self._current_epoch = epoch
        self._epoch = 0  # what the two counts belong to
        self._taken = 0
        self._loaded: dict[str, int] | None = None

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, batches taken in it), for the next batch to be wanted."""
        return self.order.epoch, self._taken if self._epoch == self.order.epoch else 0

    def state_dict(self) -> dict[str, int]:
        """The position and what it depends on: integers only, the same on every rank."""
        epoch, taken = self.position
        return {"epoch": epoch, "batches": taken, **self.order.fingerprint}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from there, once the epoch of the state is set."""
        self._loaded = dict(state)
        self._epoch, self._taken = state["epoch"], state["batches"]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._start()
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def _start(self) -> None:
        if self._current_epoch is not None:
            self.order.set_epoch(self._current_epoch())
        loaded, self._loaded = self._loaded, None
        epoch, taken = self.position
        if loaded is None or epoch != loaded["epoch"]:
            taken = 0
        elif taken:
            _check_same(loaded, self.order.fingerprint)
        self._epoch, self._taken, self.order.start = epoch, taken, taken


def _check_same(loaded: dict[str, int], current: dict[str, int]) -> None:
    """A position in an epoch means nothing in an epoch of other batches."""
    names = dict(seed="seed", batch_size="data.batch_size", accumulate="trainer.accumulate_grad_batches",
                 repeats="data.repeated_aug")  # fmt: skip
    for key, value in current.items():
        if (before := loaded.get(key, value)) != value:
            raise UserError(
                f"{names.get(key, 'data: the number of training images')}: is {value}, but the checkpoint was saved in"
                f" mid-epoch with {before}; set it back, or start over"
            )
