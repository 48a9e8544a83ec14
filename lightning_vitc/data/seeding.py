"""Random streams that are pure functions of a key.

Every random choice of this package is drawn from a stream made for it: the order of an epoch from
(seed, epoch), the augmentation of an image from (seed, epoch, index), and so on. No choice depends on how
many choices were made before it, hence not on the number of workers or processes, nor on where a run was
interrupted. NumPy keeps `RandomState`, `MT19937` and `SeedSequence` unchanged for ever (NEP 19), which it
does not promise for `Generator`: a split made today is the same split with the next version.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _sequence(purpose: str, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence((zlib.crc32(purpose.encode()), *key))


def stream(purpose: str, *key: int) -> np.random.RandomState:
    """A generator that depends on nothing but the purpose (any name) and the key (integers >= 0)."""
    return np.random.RandomState(np.random.MT19937(_sequence(purpose, key)))


def seed_transforms(*key: int) -> None:
    """Seeds what image transforms draw from: Python's, NumPy's and torch's global CPU generators.

    `torch.manual_seed` would seed the CUDA generators as well, which belong to the training step.
    """
    words = _sequence("transforms", key).generate_state(8)
    random.seed(int.from_bytes(words[:2].tobytes(), "little"))
    np.random.seed(words[2:6])
    torch.default_generator.manual_seed(int.from_bytes(words[6:].tobytes(), "little") >> 1)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Puts the three global CPU generators back as they were when the block ends."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
