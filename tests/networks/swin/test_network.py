"""Swin Transformers: timm's numbers from our modules, and sub-networks of them."""

from fractions import Fraction
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone, create_backbone, from_spec, from_timm
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.dropped_attention import without_blocks
from lightning_vitc.networks.families.swin import shape
from lightning_vitc.networks.families.swin.network import Swin, SwinBackbone
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.slicing import RULES, slice_width
from lightning_vitc.networks.spec import ArchSpec

NAME = "swin_tiny_patch4_window7_224"
SMALL = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4), "num_classes": 5}
SIZES = {"whole windows": {}, "padded": {"img_size": (40, 56), "window_size": 4}, "limited": {"window_size": 7},
         "odd": {"img_size": (36, 28), "window_size": 3}}  # fmt: skip


def theirs(**arguments: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(NAME, **SMALL | arguments).eval()
    with torch.no_grad():  # biases that matter
        for name, weight in model.named_parameters():
            if name.endswith("table"):
                weight.normal_()
    return model


def images_of(model: Any, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_timms_logits(size: str) -> None:
    model = theirs(**SIZES[size])
    ours, images = from_timm(model).eval(), images_of(model)
    assert type(ours) is SwinBackbone
    assert ours.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(ours(images), model(images), rtol=0, atol=1e-5)
    plain = compact(ours, None)
    assert type(plain) is Swin
    assert torch.equal(plain(images), ours(images))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_built_is_what_was_described(size: str) -> None:
    spec = ArchSpec.of(theirs(**SIZES[size]))
    model = from_spec(spec)
    assert ArchSpec.of(model) == ArchSpec.of(compact(model, None)) == spec
    named = shape.layout(spec)
    names = {*named.around} | {
        shape.block_prefix(*spec.place(number)) + name for number, block in enumerate(named.blocks) for name in block
    }
    assert names == model.state_dict().keys()


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_costs_are_those_of_the_operators(data: st.DataObject) -> None:
    window = data.draw(st.integers(2, 5))
    size = tuple(4 * data.draw(st.integers(2, 12)) for _ in range(2))
    first = data.draw(st.sampled_from([1, 2, 4]))
    heads = first, 2 * first
    with torch.device("meta"):
        model = timm.create_model(NAME, **SMALL | {"img_size": size, "window_size": window, "num_heads": heads})
        images = torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    spec = ArchSpec.of(model)
    assert costs.macs(spec) == counter.get_total_flops() // 2
    assert costs.params(spec) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_a_width_is_a_network_of_its_own(rule: Any) -> None:
    model = from_timm(theirs()).eval()
    kept, images = slice_width(model.spec, Fraction(1, 2), rule), images_of(model)
    small = compact(model, kept)
    assert ArchSpec.of(small) == kept.spec
    assert small.layers[1].downsample.norm.weight.shape == (4 * 8,)
    torch.testing.assert_close(model(images, kept=kept), small(images), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_merge_is_cut_in_each_of_its_four_groups() -> None:
    model = from_timm(theirs()).eval()
    small = compact(model, slice_width(model.spec, Fraction(1, 2)))
    whole = model.layers[1].downsample.reduction.weight  # [32, 4 * 16]
    expected = whole[:16].unflatten(1, (4, 16))[:, :, :8].flatten(1)
    assert torch.equal(small.layers[1].downsample.reduction.weight, expected)


@torch.no_grad()
def test_a_missing_block_leaves_the_others_their_shifts() -> None:
    model = from_timm(theirs(depths=(2, 4), img_size=64)).eval()
    kept, images = without_blocks(model, (2,)), images_of(model)
    small = compact(model, kept)
    assert [branch.shift for _, position, branch in kept.spec.branches() if position == 0] == [0, 2, 2, 0, 2]
    by_hand = model.walk(images, lambda number, block, x: x if number == 2 else block(x))
    torch.testing.assert_close(small(images), model.forward_head(by_hand), rtol=0, atol=1e-6)
    torch.testing.assert_close(model(images, kept=kept), small(images), rtol=0, atol=1e-6)


@torch.no_grad()
def test_gates() -> None:
    model = from_timm(theirs()).eval()
    images, whole = images_of(model), torch.ones(3, 2)
    torch.testing.assert_close(model(images, gates=whole), model(images), rtol=0, atol=1e-6)
    none = torch.zeros(3, 2)
    skipped = model.walk(images, lambda _, block, x: x)
    torch.testing.assert_close(model(images, gates=none), model.forward_head(skipped), rtol=0, atol=1e-6)
    seen: list[tuple[int, int, torch.Size]] = []

    def decide(block: int, branch: int, pooled: torch.Tensor) -> torch.Tensor:
        seen.append((block, branch, pooled.shape))
        return torch.ones(len(pooled))

    torch.testing.assert_close(model(images, gates=decide), model(images), rtol=0, atol=1e-6)
    assert seen == [(0, 0, (2, 16)), (0, 1, (2, 16))] + [(n, b, (2, 32)) for n in (1, 2) for b in (0, 1)]


@torch.no_grad()
def test_another_image_size() -> None:
    model = theirs()
    ours = from_timm(model).eval()
    model.set_input_size((64, 48), window_size=4)
    ours.set_input_size((64, 48))
    images = images_of(model)
    torch.testing.assert_close(ours(images), model(images), rtol=0, atol=1e-5)
    assert ArchSpec.of(ours).img_size == (64, 48)
    with pytest.raises(UserError, match="img_size: 30 is not a multiple of the patch size 4"):
        ours.spec.with_img_size((30, 32))


def test_all_blocks_are_drawn_and_trained() -> None:
    model = create_backbone(NAME, **SMALL)
    assert isinstance(model, Backbone)
    assert model.rates == {}
    assert model.blocks[2].drop_path1.drop_prob == pytest.approx(0.1)  # timm's default of the family
    assert model.blocks[0].attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in model.no_weight_decay()
    model(torch.randn(2, 3, 32, 32), kept=slice_width(model.spec, Fraction(1, 2))).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_kept_is_whole_by_default() -> None:
    model = from_timm(theirs()).eval()
    images = images_of(model)
    with torch.no_grad():
        assert torch.equal(model(images, kept=Kept.of(model.spec, model.spec, {})), model(images))
