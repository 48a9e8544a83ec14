"""Runs of every method, killed in every phase and stopped by signals, end as if nothing had happened to them.

`benchmarks/kill_resume.py` does the same with more kills, and with kills while a checkpoint is being written.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hunt import Hunt
from kill_resume import CASES, EVERYTHING
from kills import Case, Plan, plans
from same_run import differences

CONTAINED = ("dense", "UVC", "Scala", "DC-ViT", "one-shot")  # in those with everything on or with two processes
TRIED = [
    replace(case, overrides=(*case.overrides, *EVERYTHING)) if case.title == "USDC" else case
    for case in CASES
    if case.title not in CONTAINED
]
SHORT = (
    "data.num_samples=64", "data.batch_size=8", "teacher.epochs=1", "teacher.warmup_epochs=0", "trainer.max_epochs=2",
    "optimizer.warmup_epochs=0.5", "trainer.log_every_n_steps=1",
)  # fmt: skip
SCALA = (*SHORT, "method.granularity=0.25")
SEARCH = (*SHORT, "method.finetune_epochs=1", "budget.macs=90%")
NETWORKS = {  # killed in the third quarter of a stage of two epochs: in the middle of the last one
    "scala": Case("T2T-ViT", "scala_digits", (
        *SCALA, "model.name=t2t_vit_14", "model.img_size=32", "model.patch_size=null", "model.embed_dim=48",
        "model.num_heads=4", "model.depth=2", "model.mlp_ratio=2", "data.mixup=0.0",
    ), ("dense", "scala", "evaluation")),
    "scala, batch norms": Case("MobileNetV2", "scala_mobilenetv2_digits", (*SCALA, "model.depths=[1,2]"),
                               ("dense", "scala", "evaluation")),
    "uvc, batch norms": Case("UniFormer", "uvc_uniformer_digits", (
        *SEARCH, "method.gate_every=2", "model.embed_dim=[8,16,16,24]", "model.depths=[1,1,1,1]",
    ), ("dense", "search", "decision", "finetune", "evaluation")),
}  # fmt: skip


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


@pytest.mark.slow
@pytest.mark.parametrize("case", NETWORKS.values(), ids=lambda case: case.slug)
def test_killed_in_mid_epoch_other_networks_do_so_too(case: Case, tmp_path: Path) -> None:
    """To the bit, running statistics of batch norms and those of every width included."""
    hunt = Hunt(case, tmp_path)
    hunt.vitc.place.mkdir()
    hunt.finish("whole")
    stage = case.phases[1]
    assert hunt.hit(Plan(stage, 0.7))
    stopped = torch.load(hunt.run / "checkpoints" / stage / "last.ckpt", weights_only=True)
    assert stopped["global_step"] % 8, "in mid-epoch"
    assert any("running_var" in name for name in stopped["state_dict"]) == (case.title != "T2T-ViT")
    hunt.finish()
    assert differences(hunt.whole, hunt.run) == []
