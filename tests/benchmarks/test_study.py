"""What the studies share."""

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
