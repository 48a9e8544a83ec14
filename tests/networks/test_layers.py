"""At what depth a weight is: as timm's `group_matcher` says where timm has the network, by hand where it has not."""

import pytest
import timm
import torch
from timm.models import group_parameters

from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.layers import is_before, layer_of

OF_TIMM = (
    "vit_small_patch14_dinov2", "deit_tiny_distilled_patch16_224", "vit_medium_patch16_reg4_gap_256",
    "vit_base_patch16_clip_quickgelu_224", "swin_tiny_patch4_window7_224", "resnet34", "mobilenetv2_100",
    "beit_base_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_base_patch16_siglip_224",
)  # fmt: skip


@pytest.mark.parametrize("name", OF_TIMM)
def test_layers_are_timms(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model(name, num_classes=5), create_backbone(name, num_classes=5)
    wanted = group_parameters(theirs, theirs.group_matcher(coarse=False), reverse=True)
    assert {key: layer_of(key, ours.spec) for key, _ in ours.named_parameters()} == wanted
    assert max(wanted.values()) == ours.spec.depth + 1


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("t2t_vit_14", {"tokens_to_token.project.weight": 0, "cls_token": 0, "blocks.0.attn.qkv.weight": 1,
                        "blocks.13.norm2.bias": 14, "norm.weight": 14, "head.bias": 15}),
        ("uniformer_small", {"patch_embed1.proj.weight": 0, "blocks1.2.conv1.weight": 3, "patch_embed2.norm.bias": 4,
                             "blocks2.0.conv1.weight": 4, "patch_embed4.proj.weight": 16, "blocks4.2.mlp.fc1.bias": 18,
                             "norm.weight": 18, "head.weight": 19}),
        ("uniformer_xs", {"cls_token": 0, "norm_cls.weight": 21, "head_cls.bias": 21, "cls_upsample.weight": 21}),
    ],
)  # fmt: skip
def test_layers_of_networks_that_timm_lacks(name: str, layers: dict[str, int]) -> None:
    with torch.device("meta"):
        network = create_backbone(name, num_classes=5)
    names = {key for key, _ in network.named_parameters()}
    assert layers.keys() <= names
    assert {key: layer_of(key, network.spec) for key in layers} == layers


def test_the_final_norm_is_before_no_block() -> None:
    with torch.device("meta"):
        spec = create_backbone("swin_tiny_patch4_window7_224").spec
    names = ("patch_embed.norm.bias", "layers.0.blocks.1.norm1.bias", "layers.1.downsample.norm.bias", "norm.bias")
    assert [is_before(name, 2, spec) for name in names] == [True, True, False, False]
    assert [is_before(name, 12, spec) for name in names] == [True, True, True, False]
