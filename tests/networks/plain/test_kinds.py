"""Plain Vision Transformers with more than DeiT has: pooling by attention, gated MLPs, inner and RMS norms."""

from fractions import Fraction

import pytest
import timm
import torch

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked
from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import Backbone, create_backbone, from_timm
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import create_timm
from tests.networks.layouts import check_costs_and_layout

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5, "in_chans": 1}
KINDS = {
    "map": ("vit_base_patch16_siglip_224", {"mlp_ratio": 3}),
    "map, registers": ("vit_so150m_patch16_reg4_map_256", {"mlp_ratio": 2}),
    "packed swiglu": ("vit_giant_patch14_reg4_dinov2", {"mlp_ratio": 4}),
    "inner norms": ("beit3_base_patch16_224", {}),
    "rms norms, normed patches, split swiglu": ("aimv2_large_patch14_224", {"mlp_ratio": 2}),
    "dynamic image size": ("vit_intern300m_patch14_448", {}),
}
IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def of_timm(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    name, arguments = KINDS[kind]
    model = timm.create_model(name, **SMALL | arguments).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            gain = ("norm" in key and key.endswith("weight")) or "gamma" in key
            parameter.normal_(1.0 if gain else 0.0, 0.2)
    return model


def backbone(kind: str) -> Backbone:
    return from_timm(of_timm(kind)).eval()


def drawn_masks(spec: ArchSpec) -> Masks:
    masks = Masks.full(spec)
    masks.dims &= torch.rand(masks.dims.shape) < 0.7
    masks.dims[1, 0] = False
    masks.channels &= torch.rand(masks.channels.shape) < 0.6
    masks.branches[0] = False
    return masks


@pytest.mark.parametrize("kind", KINDS)
def test_timms_weights_give_timms_logits(kind):
    model = of_timm(kind)
    spec = ArchSpec.of(model)
    ours = network_of(spec).build(spec, {}).eval()
    ours.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES), model(IMAGES), rtol=0, atol=2e-6)
    assert ArchSpec.of(ours) == spec == ArchSpec.from_json(spec.to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_costs_and_layout_of_what_is_left(kind):
    spec = backbone(kind).spec
    for left in (spec, kept_of(spec, drawn_masks(spec)).spec, spec.at_width(0.5)):
        check_costs_and_layout(left)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_runs_as_it_is_masked_and_compacted(kind):
    model = backbone(kind)
    masks = drawn_masks(model.spec)
    kept = kept_of(model.spec, masks)
    small = compact(model, kept)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES, kept=kept), small(IMAGES), rtol=0, atol=1e-5)
        torch.testing.assert_close(masked(model, masks)(IMAGES), small(IMAGES), rtol=0, atol=1e-5)
        assert (model(IMAGES) - small(IMAGES)).abs().max() > 1e-3
    assert ArchSpec.of(small) == kept.spec


@pytest.mark.parametrize("rule", ["per_head", "per_qkv", "official", "heads"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_width_runs_as_it_is_cut_out(kind, rule):
    model = backbone(kind)
    for end in ("leading", "trailing"):
        kept = slice_width(model.spec, Fraction("1/2"), rule, end)
        small = compact(model, kept)
        with torch.no_grad():
            torch.testing.assert_close(model(IMAGES, kept=kept), small(IMAGES), rtol=0, atol=1e-5)
        assert ArchSpec.of(small) == kept.spec


def test_the_pooling_of_a_width_has_whole_heads():
    model = create_backbone("vit_base_patch16_siglip_224", **SMALL | {"embed_dim": 36, "num_heads": 6, "mlp_ratio": 4})
    assert model.spec.at_width(0.5).options.pool_hidden == 72
    other = create_backbone("vit_base_patch16_siglip_224", **SMALL | {"embed_dim": 36, "mlp_ratio": 4})
    with pytest.raises(UserError, match=r"^width: 0\.5 of the pooling's head width 9 is 4\.5"):
        slice_width(other.spec, Fraction("1/2"), "heads")


def test_another_epsilon_is_one_of_the_same_norms():
    model = create_timm("aimv2_large_patch14_224", **SMALL | {"mlp_ratio": 2, "norm_eps": 1e-3})
    options = ArchSpec.of(model).options
    assert (options.norm, options.norm_eps, options.embed_norm) == ("rms", 1e-3, True)
    with pytest.raises(UserError, match=r"^model\.norm_eps: resnet10t has no LayerNorm; leave it out$"):
        create_timm("resnet10t", norm_eps=1e-3)
