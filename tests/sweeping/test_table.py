import csv
import io

import pytest

from lightning_vitc.config import load_experiment
from lightning_vitc.runs.directory import write_json
from lightning_vitc.sweeping.combinations import combinations
from lightning_vitc.sweeping.table import as_csv, points_of, rows_of, table
from lightning_vitc.sweeping.writing import write

KEYS = ["seed", "budget.macs"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds at two budgets, of which the last run is missing."""
    monkeypatch.chdir(tmp_path)
    runs = combinations("uvc_digits", ["seed=0,1", "budget.macs=40%,50%"], check_files=False)
    for run, top1 in zip(runs[:3], (90.0, 95.0, 93.0), strict=True):
        share = int(run.values["budget.macs"].removesuffix("%"))
        row = {"name": "uvc", "macs": share * 10_000, "params": 7, "top1": top1, "top5": 99.0}
        dense = {"name": "dense", "macs": 1_000_000, "params": 9, "top1": 96.0, "top5": 99.0}
        run.directory.mkdir(parents=True)
        write_json(run.directory / "result.json", {"dense": dense, "rows": [row], "wall_seconds": 1.5})
    return runs


def test_runs_that_differ_in_their_seed_alone_are_one_row(runs):
    header, cells = table(points_of(rows_of(runs), KEYS))
    assert header == ["budget.macs", "network", "MACs", "of dense", "parameters", "top-1", "of dense", "n"]
    assert cells == [  # the sample standard deviation of 90 and 93
        ["40%", "uvc", "0.400 M", "40.0%", "7", "91.50 ± 2.12", "96.00 ± 0.00", "2"],
        ["50%", "uvc", "0.500 M", "50.0%", "7", "95.00", "96.00", "1"],
    ]


def test_the_csv_has_every_network_of_every_run(runs):
    found = list(csv.DictReader(io.StringIO(as_csv(rows_of(runs), KEYS))))
    assert [(row["seed"], row["budget.macs"], row["top1"]) for row in found] == [
        ("0", "40%", "90.0"), ("0", "50%", "95.0"), ("1", "40%", "93.0"),
    ]  # fmt: skip
    assert found[0]["run"] == "runs/uvc_digits/seed0-macs40pct"


def test_what_is_written(runs, tmp_path):
    text = write(rows_of(runs), KEYS, "uvc_digits", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sweep.md", "sweep.csv", "sweep.png"}
    assert text.startswith((tmp_path / "out" / "sweep.md").read_text())


def test_seeds_alone(runs):
    rows = [row for row in rows_of(runs) if row["budget.macs"] == "40%"]
    assert [point.values for point in points_of(rows, ["seed"])] == [{}]
    assert load_experiment("uvc_digits", check_files=False).seed == 0
