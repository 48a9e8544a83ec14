"""What a teacher is, whatever it is made from."""

from copy import deepcopy

import torch

from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.training.teacher import Teacher


def test_it_is_frozen_in_evaluation_and_no_part_of_a_copy() -> None:
    network = create_backbone(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, num_heads=2, depth=2, proj_drop_rate=0.5
    )
    teacher = Teacher(network.train(), network.spec.num_classes)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(teacher(images), teacher(images))
    assert deepcopy(teacher) is teacher
