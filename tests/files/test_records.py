"""A flipped bit in a record that is believed later is noticed, or changes nothing that is read from it."""

import json
import shutil
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_vitc.artifacts import arch_json
from lightning_vitc.config import load_experiment
from lightning_vitc.data import VisionData
from lightning_vitc.data.classes import as_file, read_class_file
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import DIGEST, opened, sealed
from lightning_vitc.latency import cache
from lightning_vitc.reporting.curves import read_curves
from lightning_vitc.runs.directory import RunDirectory, read_json, write_json
from lightning_vitc.runs.image_record import write_images
from lightning_vitc.schema import DataConfig

EVERY = 23  # bits, a prime, so that all eight of a byte have their turn
RECORD = {"order": [3, 1, 2], "scores": {1: 0.1 + 0.2, "x": float("inf")}, "pair": (1, None), "deep": {"a": [True]}}


def test_a_sealed_record_reads_back():
    text = json.dumps(sealed(RECORD))
    assert opened(text) == json.loads(json.dumps(RECORD))
    assert opened(json.dumps(RECORD)) == json.loads(json.dumps(RECORD)), "of an earlier version"
    with pytest.raises(ValueError, match="it is not what was written"):
        opened(text.replace("[3, 1, 2]", "[3, 2, 1]"))


@pytest.mark.parametrize("text", ["[1]", "1", "{", "[" * 100_000, b"\xff{}"])
def test_other_texts_are_no_records(text):
    with pytest.raises(ValueError, match=r"no JSON|nested|Expecting|decode"):
        opened(text)


# Every bit of every kind of record


def damages(path: Path, every: int = EVERY) -> Any:
    """The file with one bit flipped, again and again; it is restored in the end."""
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), every):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        yield place
    path.write_bytes(whole)


def answer(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read, or `None` where a line says that something is wrong: an error, or a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = read(path)
        except UserError as error:
            found, line = None, str(error)
        else:
            line = "".join(str(warning.message) for warning in said)
    assert not line or (str(path.parent) in line and "\n" not in line)
    return None if line else found


def is_same(found: Any, whole: Any) -> bool:
    """A flip in the name of the digest makes it another key, which nobody reads."""
    known = {key: found.get(key) for key in whole} if isinstance(found, dict) else found
    return known == whole


def assert_noticed(read: Callable[[Path], Any], path: Path, every: int = EVERY) -> None:
    whole = answer(read, path)
    assert whole is not None
    found = [answer(read, path) for _ in damages(path, every)]
    assert sum(each is None for each in found) > 0.9 * len(found), "most flips change something"
    assert all(each is None or is_same(each, whole) for each in found)


def experiment(path: Path) -> Any:
    return load_experiment(str(path), check_files=False).to_container()


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": read_json, ".jsonl": read_curves, ".yaml": experiment, ".txt": read_class_file,
}  # fmt: skip


def test_of_a_run(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    records = [path for path in run.rglob("*") if path.suffix in READERS and "tensorboard" not in path.parts]
    names = {path.name for path in records}
    assert names >= {"result.json", "done.json", "metrics.jsonl", "config.yaml", "classes.txt"}
    for path in records:
        assert_noticed(READERS[path.suffix], path, every=EVERY if path.suffix in (".json", ".txt") else 457)


def test_of_an_export(finished, vitc):
    assert vitc("export", str(finished), "--out", "x", "--width", ".5,1").code == 0
    folder = vitc.place / "x"
    assert_noticed(lambda path: arch_json.models_in(path.parent), folder / "models.json", every=1)
    assert_noticed(
        lambda path: arch_json.read_arch(path.parent), folder / arch_json.models_in(folder)[0] / "arch.json", 61
    )


def test_of_classes_and_images(tmp_path):
    """Which a run that is continued or evaluated goes by."""
    (tmp_path / "classes.txt").write_bytes(as_file(["cat", "5²", "\udcff"]))
    assert_noticed(read_class_file, tmp_path / "classes.txt", every=1)
    for split, label in product(("train", "val"), ("cat", "dog")):
        (tmp_path / "data" / split / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "data" / split / label / "0.png")
    write_images(RunDirectory(tmp_path), VisionData(DataConfig(name="folder", root=str(tmp_path / "data")), img_size=8))
    assert_noticed(read_json, tmp_path / "images.json", every=1)


def test_of_measured_latencies(tmp_path):
    """Which are measured again."""
    key, path = {"device": "cpu"}, tmp_path / "latency.json"
    assert cache.write(path, key, {"dense": 12345, "half": 6789})
    assert cache.read(path, key) == {"dense": 12345, "half": 6789}
    assert {json.dumps(cache.read(path, key)) for _ in damages(path, 1)} <= {"null", '{"dense": 12345, "half": 6789}'}


def test_lines_that_are_damaged_are_left_out_with_a_warning(finished, tmp_path):
    path = Path(shutil.copy(finished / "metrics.jsonl", tmp_path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b'"step": ', b'"step": 1') + b"".join(lines[1:]) + lines[-1][:20])
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: 1 damaged line is left out$"):
        read_curves(path)


# Earlier versions


def test_records_of_earlier_versions_have_no_digest(finished, tmp_path, vitc, tiny):
    run = shutil.copytree(finished, vitc.place / "runs" / "scala_digits" / "default")
    for path in run.rglob("*.json"):
        document = json.loads(path.read_text())
        assert document.pop(DIGEST)
        path.write_text(json.dumps(document))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop(DIGEST) for line in lines)
    curves = read_curves(run / "metrics.jsonl")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curves(run / "metrics.jsonl") == curves
    text = (run / "config.yaml").read_text().splitlines(keepends=True)
    assert text[-1].startswith("# digest")
    (run / "config.yaml").write_text("".join(text[:-1]))
    (run / "classes.txt").write_text("".join(f"{name}\n" for name in read_class_file(run / "classes.txt")))
    done = vitc("train", "scala_digits", *tiny)
    assert done.code == 0, done.error
    assert "is complete" in done.out


def test_a_record_is_written_whole(tmp_path):
    write_json(tmp_path / "plan.json", RECORD)
    assert read_json(tmp_path / "plan.json", "order") == json.loads(json.dumps(RECORD))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
