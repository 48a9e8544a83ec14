"""What is made of times, by hand."""

import pytest

from lightning_vitc.latency.timing import percentiles, ratio


def test_a_ratio_is_the_median_over_rounds() -> None:
    """Of 1, a half and 3; the medians would have a ratio of 3."""
    assert ratio([1.0, 10.0, 3.0], [1.0, 20.0, 1.0]) == pytest.approx(1.0)


def test_percentiles_of_zero_to_ten() -> None:
    assert percentiles([float(number) for number in range(11)]) == {"p10": 1.0, "p50": 5.0, "p90": 9.0}
