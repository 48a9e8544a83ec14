"""Masked and compacted networks give the same logits, for random masks of every kind and several kinds of model."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lightning_vitc.budget.masks import Masks, as_indices, from_indices
from lightning_vitc.budget.prunable import kept_of, masked_weights, pruned_spec
from lightning_vitc.budget.stacks import stacks_of
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone, create_backbone
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.spec import ArchSpec

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 3, "num_classes": 7}
KINDS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "LayerScale": ("deit3_small_patch16_224", {"init_values": 0.3}),
    "qk-norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "registers and average pooling": ("vit_medium_patch16_reg4_gap_256", {}),
}
WINDOWS = {"img_size": 32, "window_size": 3, "embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2), "num_classes": 7}


def network(kind: str) -> Backbone:
    torch.manual_seed(0)
    if kind == "windows":
        model = create_backbone("swin_tiny_patch4_window7_224", **WINDOWS).eval()
    else:
        name, extra = KINDS[kind]
        model = create_backbone(name, **(SMALL | extra)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


NETWORKS = {kind: network(kind) for kind in KINDS}


@st.composite
def masks(draw: st.DrawFn, depth: int = 3, heads: int = 3, dims: int = 16, hidden: int = 192) -> Masks:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    dim_mask = torch.rand(depth, heads, dims, generator=generator) < share
    dim_mask &= torch.rand(depth, heads, 1, generator=generator) < draw(st.sampled_from([0.4, 1.0]))
    channels = torch.rand(depth, hidden, generator=generator) < share
    branches = torch.rand(depth, 2, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    branches[0, 1] = True  # something has to be left
    return Masks(dim_mask, channels, branches)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(chosen=masks())
def test_masked_equals_compact(kind: str, chosen: Masks) -> None:
    model = NETWORKS[kind]
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    chosen.branches[:, 0] &= chosen.heads.any(-1)  # attention without heads adds its bias in the masked network
    small = compact(model, kept_of(model.spec, chosen))
    assert ArchSpec.of(small).blocks == pruned_spec(model.spec, chosen).blocks
    with torch.no_grad():
        masked = functional_call(model, masked_weights(model, chosen), (images,))
        assert torch.allclose(small(images), masked, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(chosen=masks(heads=2, dims=16, hidden=128))
def test_masked_equals_compact_where_stages_differ(chosen: Masks) -> None:
    model = network("windows")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    full = Masks.full(model.spec)
    chosen = Masks(full.dims & chosen.dims, full.channels & chosen.channels, chosen.branches)
    chosen.branches[:, 0] &= chosen.heads.any(-1)
    kept = kept_of(model.spec, chosen)
    small = compact(model, kept)
    assert UnitCosts.of(model.spec).total(chosen) == costs.macs(ArchSpec.of(small))
    assert UnitCosts.of(model.spec, "params").total(chosen) == sum(one.numel() for one in small.parameters())
    with torch.no_grad():
        masked = functional_call(model, masked_weights(model, chosen), (images,))
        torch.testing.assert_close(small(images), masked, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(images, kept=kept), masked, rtol=0, atol=1e-5)


def test_pruned_pieces_are_gone_from_the_state_dict() -> None:
    model = NETWORKS["vit"]
    chosen = Masks.full(model.spec)
    chosen.dims[0, 1], chosen.dims[1, 0, 5:], chosen.channels[2, 100:], chosen.branches[1, 1] = (
        False,
        False,
        False,
        False,
    )
    weights = compact(model, kept_of(model.spec, chosen)).state_dict()
    assert weights["blocks.0.attn.qkv.weight"].shape == (3 * 32, 48)
    assert weights["blocks.1.attn.qkv.weight"].shape == (2 * 48 + 37, 48)
    assert weights["blocks.2.mlp.fc1.weight"].shape == (100, 48)
    assert not any(name.startswith(("blocks.1.mlp", "blocks.1.norm2")) for name in weights)


def test_a_skipped_block_is_gone() -> None:
    model = NETWORKS["distilled"]
    chosen = Masks.full(model.spec)
    chosen.branches[1] = False
    small = compact(model, kept_of(model.spec, chosen))
    assert len(small.blocks) == 2
    assert torch.equal(small.blocks[1].mlp.fc1.weight, model.blocks[2].mlp.fc1.weight)


def test_a_pruned_network_is_refused() -> None:
    model = NETWORKS["vit"]
    chosen = Masks.full(model.spec)
    chosen.channels[0, 0] = False
    with pytest.raises(UserError, match="is already pruned; start from a dense model"):
        stacks_of(pruned_spec(model.spec, chosen))


@settings(max_examples=20, deadline=None)
@given(chosen=masks())
def test_a_record_is_read_back_as_it_was(chosen: Masks) -> None:
    spec = NETWORKS["vit"].spec
    read = from_indices(spec, json.loads(json.dumps(as_indices(chosen))))
    assert all(torch.equal(one, two) for one, two in zip(vars(chosen).values(), vars(read).values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_small_distilled_patch16_224"])
def test_masked_equals_compact_at_full_size(name: str) -> None:
    torch.manual_seed(0)
    model, generator = create_backbone(name).eval(), torch.Generator().manual_seed(1)
    full = Masks.full(model.spec)
    chosen = Masks(*(torch.rand(mask.shape, generator=generator) < 0.6 for mask in vars(full).values()))
    chosen.dims &= (torch.rand(full.heads.shape, generator=generator) < 0.7)[..., None]
    chosen.branches[:, 0] &= chosen.heads.any(-1)
    images = torch.randn(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        masked = functional_call(model, masked_weights(model, chosen), (images,))
        assert torch.allclose(masked, compact(model, kept_of(model.spec, chosen))(images), atol=1e-5)
