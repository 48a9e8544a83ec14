"""Runs of every method, killed in every phase and stopped by signals, end as if nothing had happened to them.

`benchmarks/kill_resume.py` does the same with more kills, and with kills while a checkpoint is being written.
"""

from pathlib import Path

import pytest
from hunt import Hunt
from kill_resume import CASES
from kills import Case, plans
from same_run import differences

CONTAINED = ("UVC", "Scala", "DC-ViT", "one-shot")  # in those with everything on, or with two processes
TRIED = [case for case in CASES if case.title not in CONTAINED]


@pytest.mark.slow
@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.slug)
def test_killed_in_every_phase_a_run_ends_as_if_nothing_had_been(case: Case, tmp_path: Path) -> None:
    hunt = Hunt(case, tmp_path)
    hunt.vitc.place.mkdir()
    hunt.finish("whole")
    hits = [hit for plan in plans(case, seed=1) if not plan.writing and (hit := hunt.hit(plan))]
    hunt.finish()
    assert len(hits) >= len(case.phases) // 2
    assert {"SIGTERM", "SIGKILL"} <= {hit.by for hit in hits}
    assert differences(hunt.whole, hunt.run, case.measured) == []
    assert not list(hunt.run.rglob("*.tmp"))
