"""Choosing images: stratified hold-outs and class-balanced subsets, as sorted indices."""

import numpy as np

from lightning_vitc.data.seeding import stream


def _members(targets: np.ndarray) -> list[np.ndarray]:
    """The indices of every class, each ascending."""
    _, counts = np.unique(targets, return_counts=True)
    return np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])


def hold_out(targets: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits images by their classes `targets` [N] into the rest and about `fraction` of every class.

    The choice is the same for every run. Of a class of two images or more, at least one goes to each side;
    a class of one stays in the rest. Returns two sorted arrays of indices.
    """
    random = stream("hold-out")
    held = []
    for members in _members(targets):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.append(random.permutation(members)[:count])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(targets)), chosen), chosen


def balanced_subset(targets: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the images with classes `targets` [N], drawn by `seed`: sorted indices [count].

    Class sizes differ by one at most, as far as the classes have that many images.
    """
    assert count <= len(targets)
    random = stream("subset", seed)
    turn = np.empty(len(targets), dtype=np.int64)  # an image's place in the random order of its class
    for members in _members(targets):
        turn[random.permutation(members)] = np.arange(len(members))
    order = np.lexsort((random.permutation(len(targets)), turn))
    return np.sort(order[:count])


def any_subset(total: int, count: int, seed: int) -> np.ndarray:
    """`count` of `total` images, drawn by `seed` without reading a label: sorted indices [count]."""
    assert count <= total
    return np.sort(stream("any subset", seed).permutation(total)[:count])
