"""Fine-tuning of a pretrained network: a probe first, blocks that rest, and what of it is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.files.checkpoint import read_checkpoint
from lightning_vitc.networks.layers import is_before
from lightning_vitc.pipeline.planning import planned

TINY = ("data.name=fake", "data.num_samples=24", "data.num_classes=5", "data.batch_size=8", "model.img_size=28",
        "model.depth=3", "model.embed_dim=32", "model.num_heads=2", "model.pretrained=false", "data.val_fraction=null",
        "data.root=null", "optimizer.warmup_epochs=0", "optimizer.lr=0.1", "trainer.max_epochs=1")  # fmt: skip


def state(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / stage / "last.ckpt")["state_dict"]


def test_a_probe_then_the_blocks_that_do_not_rest(tmp_path: Path, finished_run: Any, vitc_in: Any) -> None:
    keys = (*TINY, "model.frozen_blocks=2", "method.probe_epochs=2", "seed=1")
    run = finished_run(tmp_path, "dense_caltech", *keys)
    spec, _ = planned(load_experiment(str(run / "config.yaml"), check_files=False))
    probe, dense = state(run, "probe"), state(run, "dense")
    named = {key: key.removeprefix("backbone.") for key in dense if key.startswith("backbone.")}
    for key, name in named.items():
        assert torch.equal(probe[key], dense[key]) == is_before(name, 2, spec), name
    assert not (run / "checkpoints" / "probe" / "features.safetensors").exists()
    again = vitc_in(tmp_path)("train", "dense_caltech", *keys)
    assert (again.code, "is complete" in again.out) == (0, True)
    other = vitc_in(tmp_path)("evaluate", str(run))
    assert other.code == 0, other.error


PRETRAINED = "model.pretrained=/gone.safetensors"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("uvc_digits", ["model.frozen_blocks=2"], "model.frozen_blocks: the method 'uvc' freezes none; leave it out"),
        ("uvc_digits", ["method.probe_epochs=2"], "method.probe_epochs: unknown key"),
        ("dense_digits", ["method.probe_epochs=-1"], "method.probe_epochs: -1 is out of range; it must be >= 0"),
        ("dense_digits", ["model.frozen_blocks=-1"], "model.frozen_blocks: -1 is out of range; it must be >= 0"),
        ("dense_digits", ["optimizer.layer_decay=0"], "optimizer.layer_decay: 0 is out of range; it must be > 0"),
        ("dense_digits", ["optimizer.layer_decay=1.5"], "optimizer.layer_decay: 1.5 is out of range; it must be > 0 "
         "and <= 1"),
        ("dense_digits", ["method.probe_lr=0.1"], "method.probe_lr: has no effect without method.probe_epochs"),
        ("dense_digits", ["method.probe_epochs=2"], "method.probe_epochs: needs a trained network; set "),
        ("dense_digits", ["model.frozen_blocks=2"], "model.frozen_blocks: needs a trained network; set "),
        ("separate_digits", ["method.probe_epochs=2", PRETRAINED], "method.probe_epochs: networks of other widths "),
        ("separate_digits", ["model.frozen_blocks=1", PRETRAINED], "model.frozen_blocks: networks of other widths "),
    ],
)  # fmt: skip
def test_refused_in_one_line(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(name, overrides, check_files=False)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_more_blocks_than_there_are() -> None:
    overrides = ["model.frozen_blocks=13", "data.name=fake", "data.num_classes=5"]
    message = r"^model\.frozen_blocks: 13 is more than the 12 blocks of vit_small_patch14_dinov2$"
    with pytest.raises(UserError, match=message):
        planned(load_experiment("dense_caltech", overrides, check_files=False))
    planned(load_experiment("dense_caltech", ["model.frozen_blocks=12", *overrides[1:]], check_files=False))


def test_no_probe_of_a_network_with_two_kinds_of_classifiers() -> None:
    overrides = ["method.probe_epochs=2", "data.name=fake", "data.num_classes=5", "model.name=uniformer_xs"]
    with pytest.raises(UserError, match=r"^method\.probe_epochs: uniformer_xs has a classifier of another kind"):
        planned(load_experiment("dense_digits", [*overrides, "model.img_size=32", *(
            f"model.{key}=null" for key in ("patch_size", "in_chans", "embed_dim", "depth", "num_heads")
        ), "data.mean=null", "data.std=null"], check_files=False))  # fmt: skip
