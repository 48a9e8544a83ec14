"""What a number was measured on, in words."""

import pytest

from lightning_vitc.schema.split_names import evaluated_on, split_of


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"split": "test", "images": 359, "left_out": 0}, "test split, 359 images"),
        ({"split": "validation", "images": 1, "left_out": 1}, "validation split, 1 image, 1 unusable image left out"),
        ({"split": "held_out", "images": 1200}, "held-out part of the training images, 1,200 images"),
        ({"split": "validation"}, "validation split"),  # of versions that counted nothing
        ({}, "test split"),  # of the first version, which had no other
    ],
)
def test_in_words(record, words):
    assert evaluated_on(record) == words


def test_a_name_of_nobody_is_no_key_error():
    assert [split_of({"split": name}) for name in ("x", ["x"], None)] == ["test"] * 3
