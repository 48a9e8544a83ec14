"""Networks of timm's Eva class: read, built, and run whole, by parts, and compacted."""

import json
from fractions import Fraction

import pytest
import torch

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked_weights
from lightning_vitc.errors import UserError
from lightning_vitc.networks.axes import Inner
from lightning_vitc.networks.backbone import create_backbone, from_timm
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.modules.rotation import rotated
from lightning_vitc.networks.slicing import slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.weights.formats import with_timms_names
from tests.networks.eva.tiny import DEPTH, HEADS, KINDS, NORMED, SMALL, backbone, of_timm
from tests.networks.layouts import check_costs_and_layout

IMAGES = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def drawn_masks(spec: ArchSpec) -> Masks:
    """Heads of several widths, a head and an attention that are gone, some hidden units."""
    masks = Masks.full(spec)
    masks.dims &= torch.rand(masks.dims.shape) < 0.7
    masks.dims[1, 0] = False
    masks.channels &= torch.rand(masks.channels.shape) < 0.6
    masks.branches[2, 0] = False
    return masks


@pytest.mark.parametrize("kind", KINDS)
def test_timms_weights_give_timms_logits(kind):
    model = of_timm(kind)
    spec = ArchSpec.of(model)
    ours = network_of(spec).build(spec, {}).eval()
    ours.load_state_dict(with_timms_names(model.state_dict(), ours.state_dict().keys()))
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES), model(IMAGES), rtol=0, atol=2e-6)
        trained = from_timm(model).eval()
        walked = trained.walk(IMAGES, lambda _, block, x: block(x))
        torch.testing.assert_close(walked, model.forward_features(IMAGES), rtol=1e-4, atol=1e-4)
    assert ArchSpec.of(ours) == spec
    assert ArchSpec.from_json(json.dumps(json.loads(spec.to_json()))) == spec


@pytest.mark.parametrize("kind", KINDS)
def test_costs_and_layout_of_what_is_left(kind):
    spec = backbone(kind).spec
    for left in (spec, kept_of(spec, drawn_masks(spec)).spec, spec.at_width(0.5)):
        check_costs_and_layout(left)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_runs_as_it_is_compacted(kind):
    model = backbone(kind)
    masks = drawn_masks(model.spec)
    masks.branches[0] = False  # a block that is gone: later ones are renumbered
    kept = kept_of(model.spec, masks)
    small = compact(model, kept)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES, kept=kept), small(IMAGES), rtol=0, atol=1e-5)
        masked = torch.func.functional_call(model, masked_weights(model, masks), (IMAGES,))
    differ = (masked - small(IMAGES)).abs().max().item()
    assert differ > 1e-3 if kind in NORMED else differ < 1e-5  # a norm sees what is masked
    assert ArchSpec.of(small) == kept.spec
    assert small.spec.depth == DEPTH - 1


@pytest.mark.parametrize("rule", ["per_head", "heads"])
@pytest.mark.parametrize("end", ["leading", "trailing"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_width_runs_as_it_is_cut_out(kind, end, rule):
    model = backbone(kind)
    for width in ("1/2",) if rule == "heads" else ("1/4", "1/2", "3/4", "1"):
        kept = slice_width(model.spec, Fraction(width), rule, end)
        small = compact(model, kept)
        with torch.no_grad():
            torch.testing.assert_close(model(IMAGES, kept=kept), small(IMAGES), rtol=0, atol=1e-5)
        assert ArchSpec.of(small) == kept.spec


@pytest.mark.parametrize("kind", ["dinov3", "rope"])
@pytest.mark.parametrize("end", ["leading", "trailing"])
def test_a_narrow_head_turns_as_it_did_in_the_wide_one(kind, end):
    """Where the other dimensions of queries and keys are zero, the wide head gives the narrow head's logits."""
    model = backbone(kind)
    attn = model.blocks[0].attn
    kept = slice_width(model.spec, Fraction("1/2"), "per_head", end)
    small = compact(model, kept)
    of_queries = kept.indices[Inner(0, 0, "queries")].tolist()
    q = torch.randn(1, HEADS, 21, attn.head_dim)  # more tokens than patches: prefixes are not turned
    q[..., [dim for dim in range(attn.head_dim) if dim not in of_queries]] = 0
    wide = rotated(q, model.rotations(), model.spec.options.rope_half)
    narrow = rotated(q[..., of_queries], small.rotations(), small.spec.options.rope_half)
    torch.testing.assert_close(wide[..., of_queries], narrow)
    assert (narrow - q[..., of_queries]).abs().max() > 0.1
    assert wide[..., [dim for dim in range(attn.head_dim) if dim not in of_queries]].abs().max() == 0


@pytest.mark.parametrize(
    ("width", "rule", "message"),
    [
        (
            "1/2",
            "per_qkv",
            "slice: per_qkv parts dimensions that rotary positions turn together; use per_head",
        ),
        ("1/2", "official", "slice: official parts dimensions that rotary positions turn together; "),
        ("3/8", "per_head", "width: 0.375 of the head width 16 is 6; rotary positions need a multiple of 4"),
    ],
)
def test_what_would_part_a_pair_is_refused(width, rule, message):
    with pytest.raises(UserError, match=message):
        slice_width(backbone().spec, Fraction(width), rule)


def test_without_rotary_positions_queries_alone_are_biased_and_cut_like_any():
    model = backbone("eva, no rope")
    kept = slice_width(model.spec, Fraction("1/2"), "per_qkv")
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES, kept=kept), compact(model, kept)(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["dinov3", "rope", "rope beside learned positions", "mixed rope", "eva, no rope"])
def test_another_image_size(kind, tmp_path):
    """Set in place, read from a file, and as timm has it."""
    model = of_timm(kind)
    torch.save(model.state_dict(), tmp_path / "of_16.pth")
    moved = from_timm(model).eval()
    moved.set_input_size((24, 24))
    name, arguments = KINDS[kind]
    larger = create_backbone(name, str(tmp_path / "of_16.pth"), **SMALL | arguments | {"img_size": 24}).eval()
    model.set_input_size((24, 24))
    images = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(moved(images), model(images), rtol=0, atol=2e-5)
        torch.testing.assert_close(larger(images), model(images), rtol=0, atol=2e-5)
    assert moved.spec == larger.spec == backbone(kind).spec.with_img_size((24, 24))


@pytest.mark.parametrize(
    ("kind", "sister", "why"),
    [
        ("dinov3", "vit_small_patch16_dinov3_qkvb", "blocks.0.attn.q_bias is missing"),
        ("eva02, packed swiglu", "eva02_base_patch14_224", "blocks.0.attn.k_proj.weight is missing"),
        ("rope", "vit_small_patch16_rope_mixed_224", "blocks.0.attn.freqs is missing"),
    ],
)
def test_a_sisters_checkpoint_is_refused_in_one_line(kind, sister, why, tmp_path):
    torch.save(of_timm(kind).state_dict(), tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"^[^\n]*not a checkpoint of this model: [^\n]*$") as caught:
        create_backbone(sister, str(tmp_path / "file.pth"), **SMALL | {"mlp_ratio": 4})
    assert why in str(caught.value)
