"""What the studies share."""

import sys
from pathlib import Path

from study import markdown, recorded_rows, write_section  # of benchmarks/


def test_a_table_is_added_to_row_by_row(tmp_path: Path) -> None:
    """Of its own section; what is not there yet has no rows."""
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- begin own -->\n<!-- end own -->\nafter\n")
    assert recorded_rows(document, "own") == recorded_rows(document, "none") == {}
    rows = {("a", "x"): ["a", "x", "1"], ("a", "y"): ["a", "y", ""]}
    for name in ("own", "other"):
        write_section(document, name, f"Facts.\n\n{markdown(['', '', 'count'], rows.values())}")
        assert recorded_rows(document, name) == rows
    more = recorded_rows(document, "own") | {("a", "x"): ["a", "x", "2"]}
    write_section(document, "own", markdown(["", "", "count"], more.values()))
    assert recorded_rows(document, "own") == more
    assert recorded_rows(document, "other") == rows


def test_the_command_names_no_place(tmp_path, monkeypatch):
    """Whoever repeats it has other places; what decides the numbers stays."""
    document = tmp_path / "page.md"
    document.write_text("# Page\n\n<!-- begin a -->\nold\n<!-- end a -->\nbelow\n")
    monkeypatch.setattr(sys, "argv", ["/x/study.py", "--runs", "/y", "--jobs=3", "--seed", "1", "--table-only"])
    environment = {"commit": "abc", "versions": dict.fromkeys(("torch", "timm", "lightning"), "1")}
    write_section(document, "a", "new", [{"environment": environment, "wall_seconds": 3600}])
    assert document.read_text() == (
        "# Page\n\n<!-- begin a -->\nnew\n\nWritten by `python benchmarks/study.py --seed 1`; 1 run, 1.0 process "
        "hours, one thread each; commit abc; torch 1, timm 1, lightning 1.\n<!-- end a -->\nbelow\n"
    )
