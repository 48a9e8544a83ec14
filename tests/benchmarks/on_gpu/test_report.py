"""The tables."""

from typing import Any

from on_gpu import report


def test_realized_shares_have_a_table_by_network_and_precision() -> None:
    def unit(title: str, batch: int, compiled: bool) -> dict[str, Any]:
        rows = [{"name": "UVC", "ms": 1.0, "speedup": 2.0, "realised": batch / 8, "compile": way}
                for way in {False, compiled}]  # fmt: skip
        return {"status": "ok", "values": {"title": title, "batch": batch, "dtype": "bf16", "rows": rows}}

    units = {f"speed/realized/{number}": unit(*case) for number, case in enumerate(
        [("DeiT-S", 1, False), ("DeiT-S", 4, False), ("DeiT-B", 1, False), ("DeiT-S", 4, True)])}  # fmt: skip
    texts = "\n\n".join(report.speed(units))
    assert texts.count("Half of the MACs, ") == 3
    assert ("Half of the MACs, DeiT-S, bf16; ms, speed-up, **realized**:\n\n|  | batch 1 | batch 4 |") in texts
    assert "Half of the MACs, DeiT-B, bf16; ms" in texts
    assert "Half of the MACs, DeiT-S, bf16, compiled; ms, speed-up, **realized**:\n\n|  | batch 4 |" in texts
