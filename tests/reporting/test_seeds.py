"""Runs that differ in their seed alone are one row of a report."""

from typing import Any

import pytest

from lightning_vitc.config import load_experiment
from lightning_vitc.reporting.page import page
from lightning_vitc.reporting.seeds import groups_of
from lightning_vitc.reporting.sources import Entry, Source, settings_of, sources_of

LATENCY = {"p10": 1.0, "p50": 2.0, "p90": 3.0}


def source(seed: int, top1: float, *overrides: str, experiment: str = "uvc_digits", macs: int = 50) -> Source:
    keys = load_experiment(experiment, [f"seed={seed}", f"run_name=s{seed}", *overrides], check_files=False)
    row: dict[str, Any] = {
        "run": f"{experiment}/s{seed}", "name": "uvc", "dense": False, "method": "uvc", "budget": "macs 50%",
        "share": macs / 100, "macs": macs, "params": 10, "bytes": 40, "top1": top1, "top5": 99.0,
        "latency_ms": LATENCY, "speedup": 1.5, "realised": 0.9, "executed_macs": None,
    }  # fmt: skip
    facts = {"run": f"runs/{experiment}/s{seed}", "seed": seed}
    return Source(f"{experiment}/s{seed}", [Entry(row, None)], None, [], "test split", facts, None, keys.name,
                  settings_of(keys))  # type: ignore[arg-type]  # fmt: skip


def test_seeds_are_one_row():
    [group] = groups_of([source(0, 90.0, macs=50), source(1, 93.0, macs=53), source(2, 96.0, macs=50)])
    [row] = group.rows
    assert (row["run"], row["top1"], row["n"]) == ("uvc_digits", 93.0, 3)
    assert row["top1_std"] == pytest.approx(3.0)  # of a sample
    assert (row["macs"], row["executed_macs"], row["latency_ms"]) == (51, None, LATENCY)
    assert group.facts["seed"] == "0, 1, 2"


def test_what_differs_is_told_apart():
    several = [source(seed, 90.0, *keys) for keys in ([], ["method.skip=none"], ["budget.macs=40%"]) for seed in (0, 1)]
    groups = groups_of([*several, source(0, 91.0, experiment="magnitude_digits")])
    assert [(group.label, group.settings) for group in groups] == [
        ("uvc_digits, skip block, macs 50%", "skip block"),
        ("uvc_digits, skip none, macs 50%", "skip none"),
        ("uvc_digits, skip block, macs 40%", "skip block"),  # the table has a column for the budget
        ("magnitude_digits/s0", ""),
    ]


def test_runs_on_other_images_are_not_seeds_of_one():
    roots = [(f"data.root=/photos/{name}", "data.name=folder", "model.in_chans=3") for name in "ab"]
    groups = groups_of([source(seed, 90.0, *roots[seed]) for seed in (0, 1)])
    assert [group.settings for group in groups] == ["root /photos/a", "root /photos/b"]


def test_one_seed_that_is_there_twice_is_not_two():
    groups = groups_of([source(0, 90.0), source(0, 90.0), source(1, 92.0)])
    assert [len(group.sources) for group in groups] == [2, 1]


def test_a_run_alone_is_called_by_its_path():
    [group] = groups_of([source(4, 90.0)])
    assert (group.label, "n" in group.rows[0]) == ("uvc_digits/s4", False)


def test_the_page_shows_the_spread():
    from lightning_vitc.measuring.subjects import Settings

    rows = [row for group in groups_of([source(0, 90.0), source(1, 93.0), source(0, 80.0, "method.skip=none")])
            for row in group.rows]  # fmt: skip
    place = {"device": "a CPU", "threads": 1, "platform": "x", "versions": {}, "commit": None}
    html = page(rows, [], [], place, Settings())
    assert "<b>91.50 %</b> ± 2.12 (2)</td>" in html
    assert "<b>80.00 %</b></td>" in html
    assert '<th class="text">settings</th>' in html
    assert '<td class="text" data-label="settings">skip none</td>' in html
    assert "91.50 ± 2.12 %" in html  # of the headline


def test_runs_of_a_folder_and_what_is_left_out(finished, tmp_path, recwarn):
    unfinished = tmp_path / "uvc_digits" / "open"
    unfinished.mkdir(parents=True)
    (unfinished / "config.yaml").write_text("")
    (tmp_path / "scala_digits").symlink_to(finished.parent)
    (tmp_path / "scala").mkdir()
    (tmp_path / "scala" / "default").symlink_to(finished)
    found = sources_of([str(tmp_path / "scala_digits" / "default"), str(tmp_path / "uvc_digits")])
    assert [source.label for source in found] == ["scala_digits"]
    assert [str(each.message) for each in recwarn if "left out" in str(each.message)] == [
        f"{unfinished}: left out: the run is not complete"
    ]


def test_us_net_is_called_so():
    for name, label in (("usnet_digits", "US-Net"), ("scala_digits", None), ("separate_digits", "separate")):
        assert load_experiment(name, check_files=False).label == label
