"""Rows, document, table, picture and the last page of TensorBoard."""

import io
import json

import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_vitc.figures.accuracy import accuracy_over_macs
from lightning_vitc.figures.png import png_of
from lightning_vitc.files.records import opened
from lightning_vitc.pipeline import results
from lightning_vitc.pipeline.results import Row

DENSE = Row("dense", macs=4_000_000_000, params=22_000_000, top1=80.126, top5=95.0)
HALF = Row("width_0.50", macs=99_999_999, params=5_500_000, top1=70.0, top5=90.0, columns={"width": 0.5})
NARROW = Row("width_0.25", macs=1_234_567, params=1_400_000, top1=9.75, top5=49.0, columns={"width": 0.25})


def document(dense: Row | None = DENSE) -> dict:
    return results.result_document(
        experiment="scala_digits", method="scala", seed=3, seconds=12.34, dense=dense, rows=[NARROW, HALF], device="cpu"
    )


def table(content: dict) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    results.print_table(content, console)
    lines = [line for line in console.file.getvalue().splitlines() if line[:1] in "│┃"]
    return [[cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] for line in lines]


def test_row_as_json():
    assert HALF.as_dict() == {
        "name": "width_0.50", "macs": 99_999_999, "params": 5_500_000, "bytes": 22_000_000, "top1": 70.0, "top5": 90.0,
        "width": 0.5,
    }  # fmt: skip
    assert "width" not in DENSE.as_dict()
    own = Row("small", 1, 2, 3.0, 4.0, columns={"expected_macs": 7.5, "worst_macs": 9})
    assert own.as_dict() == {
        "name": "small", "macs": 1, "params": 2, "bytes": 8, "top1": 3.0, "top5": 4.0, "expected_macs": 7.5,
        "worst_macs": 9,
    }  # fmt: skip


def test_document():
    content = document()
    assert {key: content[key] for key in ("experiment", "method", "seed", "wall_seconds")} == {
        "experiment": "scala_digits", "method": "scala", "seed": 3, "wall_seconds": 12.3,
    }  # fmt: skip
    assert (content["dense"], content["rows"]) == (DENSE.as_dict(), [NARROW.as_dict(), HALF.as_dict()])
    assert content["environment"]["device"] == "cpu"
    assert document(None)["dense"] is None
    assert json.loads(json.dumps(content)) == content


def test_table():
    assert table(document()) == [
        ["network", "MACs", "% of dense", "params", "top-1 %", "top-5 %"],
        ["dense", "4,000.000 M", "100.0", "22,000,000", "80.13", "95.00"],
        ["width_0.25", "1.235 M", "0.0", "1,400,000", "9.75", "49.00"],
        ["width_0.50", "100.000 M", "2.5", "5,500,000", "70.00", "90.00"],
    ]


def test_table_without_a_dense_network_compares_with_the_largest():
    assert [row[2] for row in table(document(None))] == ["% of dense", "1.2", "100.0"]


def test_environment_of_a_machine_without_git_or_package(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setenv("PATH", str(tmp_path))
    environment = results.environment("a GPU")
    assert list(environment["versions"]) == ["torch"]
    assert environment["commit"] is None
    assert environment["device"] == "a GPU"


def test_commit_of_a_checkout():
    assert results.git_commit().removesuffix("-dirty").isalnum()


def test_result_file(tmp_path):
    results.write_result(tmp_path / "result.json", document())
    assert opened((tmp_path / "result.json").read_bytes()) == document()
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_picture(tmp_path):
    results.write_picture(tmp_path, document())
    with Image.open(tmp_path / "accuracy_over_macs.png") as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_axes_of_the_picture():
    series = {"scala": [("b", 2_000_000, 60.0), ("a", 1_000_000, 50.0)], "dense": [("dense", 3_000_000, 70.0)]}
    figure = accuracy_over_macs(series, title="a title")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["scala"].get_xdata()) == [1, 2]  # in millions, sorted
    assert list(lines["scala"].get_ydata()) == [50, 60]
    assert lines["dense"].get_marker() == "*"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("MMACs per image", "top-1 (%)")
    assert axes.get_title() == "a title"
    assert axes.get_xlim()[0] == 0
    assert png_of(figure).startswith(b"\x89PNG")
    assert not figure.axes  # cleared: a run of 300 epochs draws 300 of them
    many = accuracy_over_macs({f"{kind} {n}": [("x", n, 1.0)] * kind for kind in (1, 2) for n in range(1, 21)})
    assert len({(line.get_color(), line.get_marker()) for line in many.axes[0].lines}) == 40
    large = accuracy_over_macs({"large": [("x", 10**8, 1.0), ("y", 10**9, 2.0)]})
    assert large.axes[0].get_xlabel() == "GMACs per image"


def test_last_page_of_tensorboard_is_written_once(tmp_path):
    """A process that is killed after it, but before `result.json`, writes it again."""
    results.write_picture(tmp_path, document())
    for _ in range(2):
        results.log_to_tensorboard(tmp_path, document(), {"seed": 3, "optimizer.betas": [0.9, 0.999], "budget": None})
    assert len(list((tmp_path / "tensorboard" / "result").glob("events*"))) == 1
    page = EventAccumulator(str(tmp_path / "tensorboard" / "result")).Reload()
    assert {tag: [event.value for event in page.Scalars(tag)] for tag in page.Tags()["scalars"]} == {
        "dense/test_top1": [pytest.approx(80.126)], "width_0.25/test_top1": [9.75], "width_0.50/test_top1": [70.0],
    }  # fmt: skip
    assert len(page.Images("accuracy_over_macs")) == 1


def test_names_with_brackets_are_printed_as_they_are(capsys):
    """rich would take them for its markup."""
    row = {"name": "[bold]net[/]", "macs": 10**9, "params": 1, "top1": 1.0, "top5": 2.0}
    results.print_table({"experiment": "[red]", "seed": 0, "split": "test", "dense": None, "rows": [row]})
    assert "[red] (seed 0)" in (printed := capsys.readouterr().out)
    assert "[bold]net[/]" in printed
