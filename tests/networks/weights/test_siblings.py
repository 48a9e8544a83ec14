"""A file of another model says which."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.timm_models import create_timm
from lightning_vitc.networks.weights.huggingface import DINOV2
from lightning_vitc.networks.weights.siblings import sibling


@pytest.mark.parametrize("name", [
    "vit_small_patch14_reg4_dinov2", "deit3_small_patch16_224", "swin_base_patch4_window12_384",
    "t2t_vit_12", "resnet34",
])  # fmt: skip
def test_which_model_weights_are_of(name):
    with torch.device("meta"):
        weights = create_timm(name).state_dict()
    assert sibling(weights) == name


def test_patterns_of_a_format_go_first():
    with torch.device("meta"):
        weights = create_timm("vit_small_patch14_dinov2").state_dict()
    assert sibling(weights, DINOV2.models) == "vit_small_patch14_dinov2"
    assert sibling(weights, ("swin_tiny*",)) is None


def test_the_message_names_it(tmp_path):
    weights = timm.create_model("deit_tiny_distilled_patch16_224").half().state_dict()
    save_file(weights, tmp_path / "a.safetensors")
    line = r"a\.safetensors: not a checkpoint of this model: [^;]*; it is of deit_tiny_distilled_patch16_224: set mod"
    with pytest.raises(UserError, match=line):
        create_backbone("deit_tiny_patch16_224", str(tmp_path / "a.safetensors"))
    line = r"its depth is 12, the model's is 7; .*; it is of deit_tiny_distilled_patch16_224: set model\.name to it$"
    with pytest.raises(UserError, match=line):
        create_backbone("t2t_vit_7", str(tmp_path / "a.safetensors"))


def test_a_classifier_under_another_name_is_not_what_is_missing(tmp_path):
    """Nor is one for other classes what is wrong with a file of another model."""
    save_file(timm.create_model("mobilenetv2_035").state_dict(), tmp_path / "a.safetensors")
    line = r"not a checkpoint of this model: conv1\.weight is missing; it is of mobilenetv2_035: set model\.name"
    with pytest.raises(UserError, match=line):
        create_backbone("resnet18", str(tmp_path / "a.safetensors"), num_classes=10)
