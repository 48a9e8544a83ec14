"""What is said to be supported is: the families that can be built, by models of theirs."""

import pytest
import torch

from lightning_vitc.networks import families
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.timm_models import is_model


def test_every_family_names_a_model():
    assert all(is_model(model) for models in families.examples().values() for model in models)
    assert {family.__name__.split(".")[-2] for family in families.each_network()} == {*families.examples()}


@pytest.mark.parametrize("family", families.examples())
def test_the_models_that_are_named_can_be_built(family):
    with torch.device("meta"):
        networks = [create_backbone(name) for name in families.examples()[family]]
    assert {network.spec.family for network in networks} == {family}


def test_the_message_names_families_with_their_models():
    assert "resnet34 (resnet), swin_tiny_patch4_window7_224 (swin)" in families.supported()
