"""A compressed model taken to other data: its weights, a new head, other images."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lightning_vitc import compact, create_backbone
from lightning_vitc.artifacts import artifact
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.networks.dropped_attention import drop_attention
from lightning_vitc.pipeline.initial_network import starting_network, template
from lightning_vitc.schema import ModelConfig

DATA = ("data.num_samples=200", "data.batch_size=50", "trainer.max_epochs=1", "optimizer.warmup_epochs=0")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A network of ten classes with one block compressed, as a directory."""
    torch.manual_seed(0)
    network = create_backbone("vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=24, num_heads=2,
                              depth=3, num_classes=10)  # fmt: skip
    small = compact(drop_attention(network, 1, 20, seed=0, images=torch.empty(0)), None)
    looks = {"mean": [0.5], "std": [0.5], "interpolation": "bicubic", "crop_pct": 1.0, "input_size": [1, 8, 8]}
    artifact.save(small, tmp_path / "small", {"method": "dcvit", "preprocessing": looks})
    return tmp_path / "small"


def test_the_same_classes_keep_the_head(exported):
    started, saved = starting_network(ModelConfig(name=str(exported)), 10).eval(), artifact.load(exported)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(started(images), saved(images))
    assert started.pretrained_cfg["mean"] == [0.5]


@pytest.mark.parametrize(("keys", "classes"), [({}, 7), ({"new_head": True}, 10)])
def test_a_new_head(exported, keys, classes):
    started, saved = starting_network(ModelConfig(name=str(exported), **keys), classes), artifact.load(exported)
    assert started.head.weight.shape == (classes, 24)
    assert not torch.equal(started.head.weight[:7], saved.head.weight[:7])
    others = [name for name in saved.state_dict() if not name.startswith("head")]
    assert all(torch.equal(started.state_dict()[name], saved.state_dict()[name]) for name in others)
    assert template(ModelConfig(name=str(exported), **keys), classes).spec == started.spec
    assert started.spec.blocks[1].branches[0] is None


def test_other_images(exported):
    started = starting_network(ModelConfig(name=str(exported), img_size=16), 10)
    assert started(torch.randn(2, 1, 16, 16)).shape == (2, 10)
    assert started.pos_embed.shape == (1, 17, 24)
    with pytest.raises(UserError, match="img_size: 10 is not a multiple of the patch size 4"):
        starting_network(ModelConfig(name=str(exported), img_size=10), 10)


def test_a_checkpoint_of_other_classes(tmp_path):
    keys = {"name": "vit_tiny_patch16_224", "img_size": 8, "patch_size": 4, "embed_dim": 24, "num_heads": 2, "depth": 2}
    file = str(tmp_path / "other.safetensors")
    save_file(starting_network(ModelConfig(**keys), 10).state_dict(), file)
    with pytest.raises(UserError, match=r"its classifier is for 10 classes, the model's for 7; set model\.new_head"):
        starting_network(ModelConfig(**keys, pretrained=file), 7)
    started = starting_network(ModelConfig(**keys, pretrained=file, new_head=True), 7)
    assert started.head.bias.shape == (7,)


def test_from_digits_to_glyphs(exported, vitc):
    done = vitc("train", "dcvit_transfer_glyphs", f"model.name={exported}", *DATA)
    assert done.code == 0, done.error
    run = vitc.place / "runs" / "dcvit_transfer_glyphs" / "default"
    row = json.loads((run / "result.json").read_text())["rows"][0]
    assert row["params"] == sum(one.numel() for one in starting_network(ModelConfig(
        name=str(exported), img_size=16), 36).parameters())  # fmt: skip
    again = vitc("train", "dcvit_transfer_glyphs", f"model.name={run}", "run_name=again", *DATA)  # of a finished run
    assert again.code == 0, again.error


def test_the_weights_of_a_recipe_are_its_own(exported):
    """Most recipes have `pretrained: true`, which is no key that a user has given."""
    keys = ["model.img_size=null", "model.patch_size=null", "model.in_chans=null"]
    experiment = load_experiment("uvc_deit_s", [f"model.name={exported}", "data.name=digits", *keys])
    assert experiment.model.pretrained is True
    with pytest.raises(UserError, match=r"^model.pretrained: .* is a compressed model and fixed"):
        load_experiment("uvc_deit_s", [f"model.name={exported}", f"model.pretrained={exported}/model.safetensors"])


@pytest.mark.parametrize(("missing", "command"), [("arch.json", "plan"), ("model.safetensors", "train")])
def test_half_of_an_export_is_no_start(exported, vitc, missing, command):
    shutil.copytree(exported, vitc.place / "half")
    (vitc.place / "half" / missing).unlink()
    refused = vitc(command, "dcvit_transfer_glyphs", "model.name=./half")
    line = f"model.name: half/{missing}: no such file; half of an export; export the model again"
    assert (refused.code, refused.out, refused.error) == (2, "", f"error: {line}\n")
    assert not (vitc.place / "runs").exists()


@pytest.mark.parametrize(("override", "message"), [
    ("model.depth=3", r"model.depth: .* is a compressed model and fixed; leave the key out"),
    ("model.name=runs/none", r"model.name: 'runs/none' is neither an exported model nor a finished run; make it first"),
])  # fmt: skip
def test_refused_in_one_line(exported, vitc, override, message):
    refused = vitc("train", "dcvit_transfer_glyphs", f"model.name={exported}", override)
    assert refused.code == 2
    assert re.fullmatch(rf"error: {message}\n", refused.error), refused.error
    assert not (vitc.place / "runs").exists()
