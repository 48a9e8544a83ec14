"""What an exported network says of classes and images keeps up with what is made of it, in every family."""

from dataclasses import replace

import pytest
import torch

from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.spec import ArchSpec

TRANSFORMER = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 1}
NAMES = {
    "vit_tiny_patch16_224": TRANSFORMER,
    "beit_base_patch16_224": TRANSFORMER,
    "eva02_tiny_patch14_224": TRANSFORMER,
    "t2t_vit_14": {"img_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 1},
    "uniformer_small": {"img_size": 32, "embed_dim": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "num_heads": [2, 3]},
    "resnet18": {"img_size": 32, "depths": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("name", NAMES)
def test_other_images_and_classes(name):
    model = compact(create_backbone(name, num_classes=3, **NAMES[name]), None).eval()
    before = ArchSpec.of(model)
    model.classes, model.preprocessing = ("a", "b", "c"), {"input_size": [3, 32, 32], "crop_pct": 0.9}
    model.set_input_size((64, 64))
    assert model.spec == replace(before, img_size=(64, 64))
    assert model.preprocessing == {"input_size": [3, 64, 64], "crop_pct": 0.9}
    assert model.classes == ("a", "b", "c")
    model.reset_classifier(3)
    assert model.classes == ("a", "b", "c")
    model.reset_classifier(7)
    assert model.classes is None
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(images).shape == (2, 7)
        assert torch.allclose(compact(model, None)(images), model(images), rtol=0, atol=1e-6)
