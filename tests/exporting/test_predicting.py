"""`vitc predict`: what exported networks say of files as people have them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_vitc.exporting.exporting import export
from lightning_vitc.exporting.predicting import readable
from lightning_vitc.pipeline.finished import networks_of_run

CHOSEN, SOME = 5, "digits/3"


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory) -> Path:
    """An export of a network of digits, one of all its widths, and the digits of the test split as files."""
    place = tmp_path_factory.mktemp("predicting")
    export(str(finished), str(place / "half"), width="0.5", formats=["safetensors", "onnx"], evaluated=False)
    export(str(finished), str(place / "elastic"), variant="elastic", evaluated=False)
    test = networks_of_run(finished)[0].data.splits.test
    for number in range(len(test)):
        label = str(test.targets[number])
        (place / "digits" / label).mkdir(parents=True, exist_ok=True)
        test.source.load(test.indices[number]).save(place / "digits" / label / f"{number:03}.png")
    return place


def predicted(vitc_in, place: Path, *arguments: str) -> list[dict]:
    done = vitc_in(place)("predict", *arguments, "--json")
    assert (done.code, done.error) == (0, "")
    return json.loads(done.out)


def test_as_many_digits_are_right_as_in_the_table_of_the_run(vitc_in, place, finished):
    rows = predicted(vitc_in, place, "half", "digits")
    assert [row["image"] for row in rows] == [str(p.relative_to(place)) for p in sorted(place.glob("digits/*/*"))]
    assert {len(row["classes"]) for row in rows} == {CHOSEN}
    right = [row["classes"][0]["name"] == row["image"].split("/")[1] for row in rows]
    table = json.loads((finished / "result.json").read_text())["rows"]
    assert 100 * np.mean(right) == pytest.approx(next(row["top1"] for row in table if row["width"] == 0.5), abs=0.01)
    for row in rows:
        values = [found["probability"] for found in row["classes"]]
        assert values == sorted(values, reverse=True)
        assert 0.5 < sum(values) <= 1 + 1e-6


@pytest.mark.parametrize("options", [
    ("half", "--runtime", "onnx"), ("half", "--batch-size", "7"), ("elastic", "--width", "0.5"),
], ids=["onnx", "batches", "elastic"])  # fmt: skip
def test_however_it_is_run(vitc_in, place, options):
    directory, *rest = options
    found, expected = (
        predicted(vitc_in, place, *words) for words in ([directory, "digits", *rest], ["half", "digits"])
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert [each["name"] for each in ours["classes"]] == [each["name"] for each in theirs["classes"]]
        for mine, other in zip(ours["classes"], theirs["classes"], strict=True):
            assert mine["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_what_cannot_be_read_is_a_line_each(vitc_in, place):
    (place / "text.jpg").write_text("no image")
    (place / "photo.dat").write_bytes(next(place.glob("digits/7/*")).read_bytes())
    Image.fromarray(np.full((8, 8), 3.0, dtype=np.float32)).save(place / "float.tiff")
    done = vitc_in(place)("predict", "half", "text.jpg", "photo.dat", "float.tiff", "--topk", "1")
    assert done.code == 0
    [line] = done.out.splitlines()
    assert line.startswith("photo.dat: ")
    assert done.error.splitlines() == [
        "warning: cannot read the image text.jpg (UnidentifiedImageError)",
        "warning: cannot read the image float.tiff: its pixels are floating-point numbers, of an unknown range",
    ]
    done = vitc_in(place)("predict", "half", "text.jpg")
    assert (done.code, done.out) == (2, "")
    assert done.error.splitlines()[1] == "error: none of 1 file could be read as an image"


@pytest.mark.parametrize(("arguments", "said"), [
    (("half", "nowhere"), "nowhere: no such file or folder"), (("digits", "digits"), "digits/arch.json: no such file"),
    (("half", "digits", "--topk", "0"), "--topk: 0 must be"), (("half", "digits", "--width", ".5"), "--width: half is"),
    (("half", "digits", "--format", "onxn"), "--format: 'onxn' is not one of"),
    (("elastic", "digits", "--width", ".3"), "width: .3 is not one of 0.25, 0.5, 0.75, 1"),
    (("half", "digits", "--format", "pt2", "--runtime", "onnx"), "--format: pt2 is not run by onnx"),
    (("half", "digits", "--format", "pt2"), "half/model.pt2: no such file; half was exported as safetensors, onnx"),
    (("half", "digits", "--device", "tpu"), "--device: 'tpu'"),
    (("half", "digits", "--batch-size", "0"), "--batch-size: 0 must be"),
])  # fmt: skip
def test_mistakes(vitc_in, place, arguments, said):
    done = vitc_in(place)("predict", *arguments)
    assert (done.code, done.out) == (2, "")
    [line] = done.error.splitlines()
    assert said in line


def test_numbers_of_wordnet_are_put_into_words():
    assert readable(("n01440764", "n02123045")) == ("tench, Tinca tinca", "tabby, tabby cat")
    assert readable(("n01440764", "cat")) == ("n01440764", "cat")
    assert readable(()) == ()
