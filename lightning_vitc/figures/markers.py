"""Markers in one place, each smaller than the one below it, so that none hides another."""

from collections.abc import Sequence

# Of lines and of single networks, to tell series apart whose colors are the same: shapes, and stars by their points.
DOTS: tuple[str, ...] = tuple("osD^vPX")
STARS: tuple[str | tuple[int, int, int], ...] = ("*", *((points, 1, 0) for points in (4, 6, 8, 3, 7)))
CLOSE = 0.01  # of an axis: what hides each other
SHRINK, SMALLEST = 0.6, 2.0  # of a size, and in points


def marker_sizes(places: Sequence[tuple[float, float]], size: float) -> list[float]:
    """A size for every marker, drawn in this order: the given one where it hides none, else a smaller one.

    Args:
        places: x and y.
        size: in points.
    """
    reaches = [CLOSE * (max(axis) - min(0.0, *axis) or 1.0) for axis in zip(*places, strict=True)]
    return [
        max(size * SHRINK ** sum(_meet(place, below, reaches) for below in places[:number]), SMALLEST)
        for number, place in enumerate(places)
    ]


def _meet(one: tuple[float, float], other: tuple[float, float], reaches: Sequence[float]) -> bool:
    return all(abs(a - b) < reach for a, b, reach in zip(one, other, reaches, strict=True))
