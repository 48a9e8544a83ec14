"""Files of torchvision and of the authors of networks give what their networks give."""

import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.weights.formats import FORMATS
from tests.networks.weights.transformers_reference import images

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 16, "num_classes": 3}
SWIN = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "img_size": 32, "num_classes": 3}
Weights = dict[str, Tensor]


def drawn(model: nn.Module) -> nn.Module:
    """With weights that all matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "index" not in name and "mask" not in name.removesuffix("_token"):
                value.copy_(torch.rand(value.shape, generator=generator) - (0 if "running_var" in name else 0.5))
    return model.eval()


def small(name: str, **keys) -> nn.Module:
    return drawn(timm.create_model(name, **TINY | keys))


def same(theirs: nn.Module, weights: Weights, tmp_path, name: str, size: int = 16, **keys) -> None:
    """A file of these weights gives their logits in a model of this name."""
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "a.pth")
    ours = create_backbone(name, str(tmp_path / "a.pth"), **keys).eval()
    seen = images(size)
    with torch.no_grad():
        torch.testing.assert_close(ours(seen), theirs(seen), rtol=0, atol=1e-5)


# torchvision


def test_vit_of_torchvision(tmp_path):
    theirs = torchvision.models.VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=3)
    same(drawn(theirs), theirs.state_dict(), tmp_path, "vit_tiny_patch16_224", **TINY, mlp_ratio=2)


def test_swin_of_torchvision(tmp_path):
    theirs = torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [1, 2], [4, 4], num_classes=3)
    same(drawn(theirs), theirs.state_dict(), tmp_path, "swin_tiny_patch4_window7_224", 32, **SWIN)


@pytest.mark.parametrize(("name", "theirs", "counted"), [
    ("resnet18", torchvision.models.resnet18, True),
    ("mobilenetv2_035", partial(torchvision.models.mobilenet_v2, width_mult=0.35), True),
    ("mobilenetv2_035", partial(torchvision.models.mobilenet_v2, width_mult=0.35), False),
], ids=["resnet", "mobilenet", "mobilenet_of_before"])  # fmt: skip
def test_networks_with_batch_norm(tmp_path, name, theirs, counted):
    """Files of old do not say how many batches a norm has seen."""
    theirs = drawn(theirs(num_classes=3))
    weights = {key: value for key, value in theirs.state_dict().items() if counted or "num_batches" not in key}
    torch.save(weights, tmp_path / "a.pth")
    ours = create_backbone(name, str(tmp_path / "a.pth"), num_classes=3, img_size=32).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(images(32)), theirs(images(32)), rtol=1e-5, atol=1e-5)


# Authors


def of_microsofts_swin(weights: Weights) -> Weights:
    found = {
        re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): value
        for name, value in weights.items()
    }
    found = {name.replace("head.fc.", "head."): value for name, value in found.items()}
    return found | {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16),
                    "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16).long()}  # fmt: skip


def test_microsofts_swin(tmp_path):
    theirs = drawn(timm.create_model("swin_tiny_patch4_window7_224", **SWIN))
    same(theirs, of_microsofts_swin(theirs.state_dict()), tmp_path, "swin_tiny_patch4_window7_224", 32, **SWIN)


def test_microsofts_beit(tmp_path):
    theirs = small("beit_base_patch16_224")
    index = {f"blocks.{number}.attn.relative_position_index": torch.zeros(17, 17).long() for number in range(2)}
    same(theirs, theirs.state_dict() | index, tmp_path, "beit_base_patch16_224", **TINY)


def of_dinov3(weights: Weights, bias: float = 0.0) -> Weights:
    """The authors' have a bias in every network."""
    found, gated = {}, "blocks.0.mlp.fc1_g.weight" in weights
    for name, value in weights.items():
        name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name).replace("reg_token", "storage_tokens")
        found[name.replace("fc1_g", "w1").replace("fc1_x", "w2").replace("fc2", "w3") if gated else name] = value
    for number in range(2):
        attn = f"blocks.{number}.attn"
        query, value = (found.pop(f"{attn}.{part}_bias", torch.full((16,), bias)) for part in "qv")
        found |= {f"{attn}.qkv.bias": torch.cat([query, torch.rand(16), value]),
                  f"{attn}.qkv.bias_mask": torch.ones(48)}  # fmt: skip
    return found | {"mask_token": torch.zeros(1, 16), "rope_embed.periods": torch.ones(2)}


DINOV3 = ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3")


@pytest.mark.parametrize("name", DINOV3)
def test_dinov3(tmp_path, name):
    theirs = small(name)
    same(theirs, of_dinov3(theirs.state_dict()), tmp_path, name, **TINY)


def test_biases_that_a_network_lacks_are_not_dropped(tmp_path):
    torch.save(of_dinov3(small(DINOV3[0]).state_dict(), bias=0.1), tmp_path / "a.pth")
    line = r"a\.pth \(DINOv3\): not a checkpoint of this model: it has blocks\.0\.attn\.q_bias, which the model lacks"
    with pytest.raises(UserError, match=line):
        create_backbone(DINOV3[0], str(tmp_path / "a.pth"), **TINY)


def of_dinov2(weights: Weights) -> Weights:
    found = dict(weights)
    if "reg_token" in found:
        first = torch.rand(1, 1, 16)
        found["register_tokens"] = found.pop("reg_token")
        found |= {"cls_token": found["cls_token"] - first, "pos_embed": torch.cat([first, found["pos_embed"]], dim=1)}
    return found | {"mask_token": torch.zeros(1, 16)}


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_dinov2(tmp_path, name):
    theirs = small(name)
    same(theirs, of_dinov2(theirs.state_dict()), tmp_path, name, **TINY)


def test_dinov2_giant(tmp_path):
    theirs = small("vit_giant_patch14_dinov2", mlp_ratio=3)
    weights = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for name, value in of_dinov2(theirs.state_dict()).items()
    }
    same(theirs, weights, tmp_path, "vit_giant_patch14_dinov2", **TINY, mlp_ratio=3)


def test_openais_clip(tmp_path):
    theirs = small("vit_base_patch32_clip_quickgelu_224")
    nn.init.zeros_(theirs.head.bias)
    names = {"patch_embed.proj": "conv1", "pos_embed": "positional_embedding", "blocks.": "transformer.resblocks.",
             "norm_pre": "ln_pre", "norm1": "ln_1", "norm2": "ln_2", "attn.qkv.": "attn.in_proj_",
             "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    found = {}
    for name, value in theirs.state_dict().items():
        for ours, author in names.items():
            name = name.replace(ours, author)
        found[f"visual.{re.sub(r'^norm[.]', 'ln_post.', name)}"] = value
    found |= {"visual.class_embedding": found.pop("visual.cls_token")[0, 0],
              "visual.positional_embedding": found["visual.positional_embedding"][0],
              "visual.proj": found.pop("visual.head.weight").T, "logit_scale": torch.ones(())}  # fmt: skip
    del found["visual.head.bias"]
    same(theirs, found, tmp_path, "vit_base_patch32_clip_quickgelu_224", **TINY)


def test_eva02(tmp_path):
    theirs = small("eva02_base_patch14_224", mlp_ratio=2)
    names = {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3", "mlp.norm": "mlp.ffn_ln",
             "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}  # fmt: skip
    found = {"rope.freqs_cos": torch.ones(16, 8)}
    for name, value in theirs.state_dict().items():
        for ours, author in names.items():
            name = name.replace(ours, author)
        found[name] = value
    same(theirs, found, tmp_path, "eva02_base_patch14_224", **TINY, mlp_ratio=2)


# All or nothing


@pytest.mark.parametrize("change", [
    lambda weights: weights | {"unheard_of": torch.ones(1)},
    lambda weights: {name: value for name, value in weights.items() if name != "encoder.ln.weight"},
])  # fmt: skip
def test_every_name_has_its_place(tmp_path, change):
    weights = torchvision.models.VisionTransformer(16, 4, 2, 2, 16, 64, num_classes=3).state_dict()
    torch.save(change(weights), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"^\S+a\.pth( \(torchvision's ViT\))?: not a checkpoint of this model: [^\n]*$"
    ):
        create_backbone("vit_tiny_patch16_224", str(tmp_path / "a.pth"), **TINY)


def test_shapes_that_are_not_the_formats(tmp_path):
    names = dict.fromkeys(("query", "key", "value"), torch.ones(16))
    weights = {f"layers.0.attention.attention.{part}.weight": value for part, value in names.items()}
    weights["layers.0.attention.attention.key.weight"] = torch.ones(2, 2)
    torch.save(weights | {"layernorm.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: has the names of Hugging Face's ViT, but not its shapes \(.*\)$"):
        create_backbone("vit_tiny_patch16_224", str(tmp_path / "a.pth"), **TINY)


def test_no_two_formats_have_one_name():
    assert len({format.name for format in FORMATS}) == len(FORMATS)
