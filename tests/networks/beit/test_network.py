"""BEiT: read, built, and run whole, by parts, and compacted."""

from fractions import Fraction

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc import costs
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked_weights
from lightning_vitc.errors import UserError
from lightning_vitc.networks.backbone import create_backbone, from_timm
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from tests.networks.layouts import check_layout

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5, "in_chans": 1}
IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def of_timm() -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("beit_base_patch16_224", **SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3)
    return model


def drawn_masks(spec: ArchSpec) -> Masks:
    masks = Masks.full(spec)
    masks.dims &= torch.rand(masks.dims.shape) < 0.7
    masks.dims[1, :2] = False
    masks.channels &= torch.rand(masks.channels.shape) < 0.6
    masks.branches[0] = False
    return masks


def test_timms_weights_give_timms_logits(of_timm):
    spec = ArchSpec.of(of_timm)
    ours = network_of(spec).build(spec, {}).eval()
    ours.load_state_dict(of_timm.state_dict())
    trained = from_timm(of_timm).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES), of_timm(IMAGES), rtol=0, atol=2e-6)
        walked = trained.walk(IMAGES, lambda _, block, x: block(x))
        torch.testing.assert_close(walked, of_timm.forward_features(IMAGES), rtol=1e-5, atol=1e-5)
    assert ArchSpec.of(ours) == spec == ArchSpec.from_json(spec.to_json())


def test_a_part_runs_as_it_is_masked_and_compacted(of_timm):
    model = from_timm(of_timm).eval()
    masks = drawn_masks(model.spec)
    kept = kept_of(model.spec, masks)
    small = compact(model, kept)
    with torch.no_grad():
        masked = torch.func.functional_call(model, masked_weights(model, masks), (IMAGES,))
        torch.testing.assert_close(small(IMAGES), masked, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(IMAGES, kept=kept), masked, rtol=0, atol=1e-5)
    assert ArchSpec.of(small) == kept.spec
    check_layout(kept.spec, small.state_dict())


@pytest.mark.parametrize("rule", ["per_head", "per_qkv", "heads"])
@pytest.mark.parametrize("end", ["leading", "trailing"])
def test_a_width_runs_as_it_is_cut_out(of_timm, rule, end):
    model = from_timm(of_timm).eval()
    for width in ("1/4", "1/2", "1"):
        kept = slice_width(model.spec, Fraction(width), rule, end)
        with torch.no_grad():
            torch.testing.assert_close(model(IMAGES, kept=kept), compact(model, kept)(IMAGES), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"^slice: official cuts queries, keys and values as one"):
        slice_width(model.spec, Fraction("1/2"), "official")


def test_costs_of_what_is_left(of_timm):
    spec = ArchSpec.of(of_timm)
    for left in (spec, kept_of(spec, drawn_masks(spec)).spec, spec.at_width(0.5), spec.with_img_size((24, 16))):
        with torch.device("meta"):
            model = network_of(left).build(left, {}).eval()
            network_of(left).place_buffers(model, torch.device("meta"))
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
                model(torch.empty(1, 1, *left.img_size))
        assert costs.executed(left) == counter.get_total_flops() // 2
        assert costs.params(left) == sum(parameter.numel() for parameter in model.parameters())


def test_a_file_for_other_images_and_the_network_itself_are_resampled_alike(of_timm, tmp_path):
    torch.save(of_timm.state_dict(), tmp_path / "of_16.pth")
    larger = create_backbone("beit_base_patch16_224", str(tmp_path / "of_16.pth"), **SMALL | {"img_size": 24}).eval()
    moved = from_timm(of_timm).eval()
    moved.set_input_size((24, 24))
    of_timm.set_input_size((24, 24))
    images = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(moved(images), of_timm(images), rtol=0, atol=2e-6)
        torch.testing.assert_close(larger(images), of_timm(images), rtol=0, atol=1e-4)
    assert ArchSpec.of(moved) == moved.spec == larger.spec


def test_a_sisters_file_is_refused_in_one_line(of_timm, tmp_path):
    torch.save(of_timm.state_dict(), tmp_path / "beit.pth")
    with pytest.raises(UserError, match=r"not a checkpoint of this model: [^\n]*$"):
        create_backbone("eva_giant_patch14_224", str(tmp_path / "beit.pth"), **SMALL)
