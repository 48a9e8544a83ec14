"""The page over runs: its numbers, its pictures, and how a browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_vitc.figures.front import Point, front_figure, pareto_front
from lightning_vitc.reporting.curves import curves_figure, read_curves
from lightning_vitc.reporting.page import _tiles
from lightning_vitc.schema.split_names import WORDS

BROWSER = next(
    (
        name
        for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
        if shutil.which(name)
    ),
    None,
)


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory) -> Path:
    from lightning_vitc.measuring.subjects import Settings
    from lightning_vitc.reporting.report import report

    place = tmp_path_factory.mktemp("report")
    shutil.copytree(finished, place / "runs" / "scala_digits" / "second")
    report([str(finished), str(place / "runs" / "scala_digits" / "second")], str(place / "page"), Settings(repeats=2))
    return place / "page"


# What is written


def test_rows(folder, finished):
    rows = json.loads((folder / "report.json").read_text())["rows"]
    document = json.loads((finished / "result.json").read_text())
    written = [document["dense"], *document["rows"]]
    assert [row["name"] for row in rows] == 2 * [row["name"] for row in written]
    for row, wanted in zip(rows, written, strict=False):
        assert all(row[key] == wanted[key] for key in ("macs", "params", "bytes", "top1"))
        assert row["share"] == pytest.approx(wanted["macs"] / document["dense"]["macs"])
        assert row["realised"] == pytest.approx(row["speedup"] * row["share"], rel=1e-3, abs=1e-4)  # of four digits
    assert rows[0]["dense"]
    assert rows[0]["speedup"] == 1
    assert [row["budget"] for row in rows[:3]] == ["", "width 0.25", "width 0.5"]
    assert {row["run"] for row in rows} == {"scala_digits", "scala_digits/second"}


def test_the_page_is_one_file_with_every_picture_in_it_and_beside_it(folder):
    html = (folder / "index.html").read_text()
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert {"accuracy_over_macs.png", "accuracy_over_latency.png", "loss_0.png", "accuracy_1.png"} <= {*pictures}
    assert len([name for name in pictures if name.startswith("architecture_0")]) == 1
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert list((folder / "tensorboard").glob("events*"))


def test_the_page_shows_the_numbers_and_where_they_come_from(folder):
    html = (folder / "index.html").read_text()
    for row in json.loads((folder / "report.json").read_text())["rows"]:
        assert f"<b>{row['top1']:.2f} %</b>" in html
        assert f">{row['speedup']:.2f}" in html
    for shown in ("width 0.25", "test split", "torch 2.", "<dt>seed</dt><dd>0</dd>", "2 rounds"):
        assert shown in html


@pytest.mark.slow
def test_an_earlier_report_is_replaced_and_nothing_else(folder, finished, vitc):
    shutil.copytree(folder, vitc.place / "page")
    done = vitc("report", str(finished), "--out", "page", "--repeats", "1")
    assert (done.code, done.out, done.error) == (0, "page/index.html\n", "")
    assert len(json.loads((vitc.place / "page" / "report.json").read_text())["rows"]) == 5
    (vitc.place / "mine").mkdir()
    (vitc.place / "mine" / "notes").write_text("")
    for arguments, message in (
        ((str(finished), "--out", "mine"), "--out: mine is not empty and no report; name another directory"),
        (("nowhere", "--out", "x"), "nowhere: not a run directory: it has no config.yaml"),
        ((str(finished), "--out", "x", "--repeats", "0"), "--repeats: 0 must be a whole number >= 1"),
    ):
        done = vitc("report", *arguments)
        assert (done.code, done.out, done.error) == (2, "", f"error: {message}\n")
    assert not (vitc.place / "x").exists()


@pytest.mark.slow
def test_an_exported_directory_has_a_row_a_format(finished, vitc):
    done = vitc("export", str(finished), "--out", "half", "--width", ".5", "--formats", "onnx,int8")
    assert done.code == 0, done.error
    done = vitc("report", "half", str(finished), "--out", "page", "--repeats", "1", "--json")
    assert (done.code, done.error) == (0, "")
    dense, whole = (row for row in json.loads(done.out) if row["dense"])
    assert dense["run"].endswith("/half")
    assert all(dense[key] == whole[key] for key in ("name", "top1", "top5", "macs", "params", "bytes"))
    rows = [row for row in json.loads(done.out) if "half" in row["name"]]
    assert [row["name"] for row in rows] == ["half, safetensors", "half, onnx", "half, int8"]
    formats = json.loads((vitc.place / "half" / "arch.json").read_text())["formats"]
    for row in rows:
        assert (row["top1"], row["bytes"]) == tuple(formats[row["runtime"]][key] for key in ("top1", "bytes"))
        assert row["latency_ms"]["p50"] > 0
        assert row["budget"] == "width 0.5"
    vitc("export", str(finished), "--out", "all", "--variant", "elastic")
    done = vitc("report", "all", "--out", "x")
    message = "all: not one network with an accuracy and a dense model; name its run instead"
    assert (done.code, done.error) == (2, f"error: {message}\n")


@pytest.mark.slow
def test_exports_of_one_name_are_told_apart(finished, vitc, monkeypatch):
    """Each has the times of its own; and the folders of an export of several models are rows."""
    from lightning_vitc.measuring.subjects import Settings
    from lightning_vitc.reporting import report as module

    timed = []
    benchmark = module.benchmark
    monkeypatch.setattr(module, "benchmark", lambda *given: timed.append(benchmark(*given)) or timed[-1])
    for place, width in (("a/model", "0.25"), ("b/model", "0.5"), ("several", ".75,1")):
        assert vitc("export", str(finished), "--out", place, "--width", width).code == 0
    places = [str(vitc.place / name) for name in ("a/model", "b/model", "several")]
    rows = module.report(places, str(vitc.place / "page"), Settings(repeats=2))
    by_name = {row["name"]: row["latency_ms"] for row in timed[0]}
    assert [row["latency_ms"] for row in rows if row["name"] == "dense"] == [
        by_name[f"{row['run']} dense"] for row in rows if row["name"] == "dense"
    ]
    rows = [row for row in rows if row["name"] != "dense"]
    assert [row["name"] for row in rows] == [
        f"{name}, safetensors" for name in ("model", "model", "width_0.75", "width_1.00")
    ]
    assert [row["latency_ms"] for row in rows] == [by_name[row["run"]] for row in rows]
    assert [row["dense"] for row in rows] == [False, False, False, True]


# Its parts


def test_the_front_is_what_nothing_beats():
    places = {
        "a": (1.0, 70.0),
        "b": (2.0, 80.0),
        "c": (2.5, 79.0),
        "d": (3.0, 80.0),
        "e": (2.0, 75.0),
        "f": (4.0, 81.0),
    }
    points = [Point(label, "series", *place) for label, place in places.items()]
    assert [point.label for point in pareto_front(points)] == ["a", "b", "f"]
    assert [point.label for point in pareto_front(points[::-1])] == ["a", "b", "f"]
    axes = front_figure(points, "GMACs").axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 70], [2, 80], [4, 81]]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "f"]


def test_a_star_for_the_dense_network():
    points = [Point("small", "s", 1.0, 70.0), Point("dense", "s", 2.0, 72.0, dense=True)]
    stars = [line for line in front_figure(points, "ms").axes[0].lines if line.get_marker() == "*"]
    assert [line.get_xydata().tolist() for line in stars] == [[[2, 72]], []]  # the last one for the legend
    assert stars[1].get_label() == "dense"


@pytest.mark.parametrize("runs", [1, 6, 30])
@pytest.mark.parametrize(
    "name", ["scala_digits/default", "a_long_name_of_a_study/with-a-long-name-of-a-run", "x" * 400]
)
def test_the_legend_is_all_there_however_many_runs(runs, name):
    points = [
        Point(f"w{width}", f"{number} {name} {number}", 1.0 + width, 70.0 + width + number, dense=width == 2)
        for number in range(runs)
        for width in range(3)
    ]
    figure = front_figure(points, "GMACs")
    figure.canvas.draw()
    [legend] = figure.legends
    box, axes = legend.get_window_extent(), figure.axes[0].get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.width
    assert axes.height > 1.8 * figure.dpi  # what is left for the points
    assert axes.y0 > box.y1
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(set(labels)) == runs + 2  # the front and the dense star
    lines = [line for line in figure.axes[0].lines if line.get_label()[0].isdigit()]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == runs


def test_networks_in_one_place_are_all_seen():
    """The second star would hide the first, and the third both; a star is larger than the dot on it."""
    points = [Point("dense", f"run {number}", 2.0, 72.0, dense=True) for number in range(3)]
    points += [Point("small", "run 0", 1.0, 70.0), Point("whole", "run 1", 2.0, 72.0), Point("small", "run 2", 1.0, 70)]
    lines = front_figure(points, "ms").axes[0].lines
    drawn = [line for line in lines if len(line.get_xdata()) == 1 and line.get_markevery() != []]
    stars, dots = ([line for line in drawn if line.get_marker() == marker] for marker in "*o")
    assert [line.get_markersize() for line in stars] == sorted({14, 14 * 0.6, 14 * 0.36}, reverse=True)
    assert len({line.get_color() for line in stars}) == 3
    assert [line.get_markersize() for line in dots if line.get_xdata()[0] == 1] == [6, 6 * 0.6]
    assert max(line.zorder for line in stars[:1]) < min(line.zorder for line in dots)


def test_dense_runs_are_told_apart_too():
    points = [Point("dense", f"run {number}", 1.0 + number, 70.0 + number, dense=True) for number in range(40)]
    lines = [line for line in front_figure(points, "ms").axes[0].lines if line.get_label().startswith("run")]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 40


def test_one_network_has_no_front():
    figure = front_figure([Point("dense", "a run", 2.0, 72.0, dense=True)], "ms")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a run", "dense"]


@pytest.mark.parametrize("split", [*WORDS.values()])
def test_labels_are_inside_of_the_picture(split):
    points = [Point(f"width_{share:.2f}", "scala", share, 70 + share) for share in (0.01, 0.5, 1.0)]
    for figure in (
        front_figure(points, "GMACs", f"top-1 (%), {split}"),
        curves_figure({"a": [(1, 2.0)]}, "training loss"),
    ):
        figure.canvas.draw()
        axes = figure.axes[0]
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height


def test_a_curve_of_one_point_is_seen_and_steps_are_whole():
    figure = curves_figure({"dense": [(9, 2.3)], "search": [(25, 1.9), (12, 2.0)]}, "training loss")
    [axes] = figure.axes
    one, more = axes.lines
    assert (one.get_marker(), one.get_markersize()) == ("o", 8)
    assert more.get_xydata().tolist() == [[12, 2.0], [25, 1.9]]  # a run that was continued may have them in any order
    assert axes.get_xlim()[0] == 0
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_curves_in_one_place_are_all_seen_and_many_are_told_apart():
    curves = {f"width {number}": [(31, 10.0)] for number in range(13)}
    figure = curves_figure(curves, "top-1 (%)")
    figure.canvas.draw()
    lines = figure.axes[0].lines
    assert [line.get_markersize() for line in lines[:3]] == [8, 8 * 0.6, 8 * 0.36]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 13
    assert figure.axes[0].get_window_extent().height > 1.8 * figure.dpi
    assert figure.legends[0].get_window_extent().y1 < figure.axes[0].get_window_extent().y0


def test_the_headline_is_of_a_smaller_network():
    """Not of the dense model, nor of one of its size."""
    whole = {"run": "r", "dense": False, "share": 1.0, "speedup": 1.0, "top1": 91.0, "name": "width_1.00"}
    rows = [whole | {"dense": True, "name": "dense", "top1": 92.0}, whole]
    assert _tiles(rows) == [("92.00 %", "highest top-1", "r, dense")]
    rows.append(whole | {"name": "width_0.50", "share": 0.25, "speedup": 3.0, "top1": 90.0})
    rows.append(whole | {"name": "width_0.75", "share": 0.56, "speedup": 2.0, "top1": 91.5})
    assert _tiles(rows) == [
        ("91.50 %", "highest top-1", "r, width_0.75"),
        ("56.0 %", "of the MACs, within 1 point of dense", "r, width_0.75"),
        ("2.00 x", "speed-up, within 1 point of dense", "r, width_0.75"),
    ]


def test_curves_put_stages_one_after_another(tmp_path):
    lines = [{"stage": "dense", "step": 9, "train/loss": 2.0}, {"stage": "dense", "step": 9, "dense/val_top1": 50.0},
             {"stage": "dense", "step": 19, "train/loss": 1.0, "val/top1": 60.0},
             {"stage": "dense", "step": 19, "train/loss": float("nan")},
             {"stage": "scala", "step": 4, "train/loss": 3.0, "width_0.50/val_top1": 40.0, "width_1.00/val_top1": 45.0},
             {"stage": "finetune", "step": 4, "dense/val_top1": 70.0}]  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), '{"stage": "sca']))
    losses, accuracies = read_curves(path)
    assert losses == {"dense": [(9, 2.0), (19, 1.0)], "scala": [(24, 3.0)]}
    assert accuracies == {"dense": [(9, 50.0)], "scala: width_0.50": [(24, 40.0)], "scala: width_1.00": [(24, 45.0)],
                          "finetune": [(29, 70.0)]}  # fmt: skip
    assert read_curves(tmp_path / "none") == ({}, {})


# In a browser


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}", *options,
               f"file://{page}"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


def console_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: the page is not looked at")


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_a_complaint(folder, tmp_path, width):
    shutil.copy(folder / "index.html", tmp_path)
    done = browse(tmp_path / "index.html", f"--window-size={width},1600", f"--screenshot={tmp_path / 'shot.png'}")
    assert console_of(done) == []
    picture = Image.open(tmp_path / "shot.png")
    assert picture.size == (width, 1600)
    rows = np.asarray(picture.convert("L"))
    assert (rows.min(axis=1) < 128).mean() > 0.2  # ink on many lines: not a blank page


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_at_the_side(folder, tmp_path, width):
    script = "<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth</script></body>"
    page = tmp_path / "page.html"
    page.write_text((folder / "index.html").read_text().replace("</body>", script))
    done = browse(page, f"--window-size={width},1600", "--dump-dom")
    match = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert match is not None
    assert int(match[1]) <= int(match[2]) == width


@needs_browser
def test_it_is_printed_with_all_pictures(folder, tmp_path):
    shutil.copy(folder / "index.html", tmp_path)
    browse(tmp_path / "index.html", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    different = {path.read_bytes() for path in folder.glob("*.png")}
    assert pdf.count(b"/Subtype /Image") >= len(different) > 3


@needs_browser
def test_a_complaint_would_be_seen(tmp_path):
    (tmp_path / "page.html").write_text("<script>console.error('oh'); throw new Error('no')</script>")
    assert len(console_of(browse(tmp_path / "page.html", f"--screenshot={tmp_path / 'shot.png'}"))) == 2
