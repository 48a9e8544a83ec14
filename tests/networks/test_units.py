import pytest

from lightning_vitc.networks.units import Unit


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([4_624_100_000, 300_000_000], ["4.624 G", "0.300 G"]),
        ([4_624_100_000, 99_999_999], ["4,624.100 M", "100.000 M"]),
        ([8_220_000, 562_000], ["8.220 M", "0.562 M"]),
        ([173_376], ["0.173 M"]),
        ([99_999, 12], ["99,999", "12"]),
        ([99_999, 0], ["99.999 k", "0.000 k"]),
        ([], []),
        ([0], ["0"]),
    ],
)
def test_one_unit_in_which_the_smallest_has_three_digits(counts, shown):
    unit = Unit.of(counts)
    assert [unit.shown(count) for count in counts] == shown
