"""The experiments on photographs, dry: every stage of each, on a few random images and a tiny network."""

from pathlib import Path
from typing import Any

import pytest

from lightning_vitc.config import load_experiment

FAKE = ("data.name=fake", "data.root=null", "data.num_classes=3", "data.val_fraction=null", "teacher.run=null",
        "model.depth=4", "model.embed_dim=32", "model.num_heads=2", "optimizer.warmup_epochs=0", "data.batch_size=8",
        "trainer.max_epochs=1", "data.num_samples=16")  # fmt: skip
CALTECH, CIFAR = ("model.img_size=28",), ("model.img_size=8",)
DRY: dict[str, tuple[str, ...]] = {
    "dense_caltech": CALTECH,
    "dcvit_caltech": (*CALTECH, "budget.drop_blocks=1", "data.batch_size=4"),
    "practise_caltech": (*CALTECH, "budget.drop_blocks=1", "data.batch_size=4", "method.latency_batch=1"),
    "uvc_caltech": (*CALTECH, "method.finetune_epochs=1"),
    "usdc_caltech": (*CALTECH, "method.finetune_epochs=1"),
    "magnitude_caltech": (*CALTECH, "method.finetune_epochs=1", "budget.macs=60%"),
    "scala_cifar10": (*CIFAR, "teacher.train=false"),
    "usnet_cifar10": CIFAR,
    "separate_cifar10": (*CIFAR, "method.widths=[0.5,1.0]"),
}


@pytest.mark.parametrize("name", [name for name in DRY if not name.startswith("dense")])  # see methods/test_dense.py
def test_a_dry_run(name: str, tmp_path: Path, finished_run: Any) -> None:
    run = finished_run(tmp_path, name, *FAKE, *DRY[name])
    assert (run / "result.json").is_file()


@pytest.mark.parametrize("name", DRY)
def test_what_it_reads_is_the_users(name: str) -> None:
    """Folders beside the runs by default, and no place of anybody's machine."""
    experiment = load_experiment(name, check_files=False)
    assert experiment.data.name == "folder"
    paths = (experiment.data.root, experiment.model.pretrained or "", experiment.teacher.run or "")
    assert not any(str(path).startswith(("/", "~")) for path in paths)
    of_dense = name.endswith("_caltech") and not name.startswith("dense")
    assert (experiment.teacher.run == "runs/dense_caltech/default") == of_dense
