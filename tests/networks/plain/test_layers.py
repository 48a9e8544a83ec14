from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lightning_vitc import costs
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.plain.layers import Block
from lightning_vitc.networks.families.plain.network import build, initialize
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.modules.activations import ACTIVATIONS
from lightning_vitc.networks.modules.attention import Attention
from lightning_vitc.networks.modules.norms import norm_of
from lightning_vitc.networks.spec import ArchSpec

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
FULL = vit_block(attention(4, (4, 4, 4)), 24)
SPEC = vit("small", (16, 24), (8, 8), 2, 5, 12, (FULL,) * 2, scale=0.5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomize(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


# Any spec can be built, runs, and is read back


widths = st.integers(1, 6)
attentions = st.builds(attention, widths, st.lists(widths, min_size=1, max_size=3).map(tuple))
blocks = st.builds(vit_block, st.none() | attentions, st.none() | st.integers(0, 9))


@st.composite
def specs(draw) -> ArchSpec:
    """The networks this library can meet: timm's options, and any of the blocks that compression leaves."""
    flag = st.booleans()
    distilled = draw(flag)
    pool = "token" if distilled else draw(st.sampled_from(["token", "avg", "max", "avgmax"]))
    norm = draw(flag)
    return vit(
        name="some", img_size=(draw(st.integers(4, 9)), draw(st.integers(4, 9))),
        patch_size=(draw(st.integers(1, 4)), draw(st.integers(1, 4))), in_chans=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(0, 4)), embed_dim=draw(st.integers(1, 8)),
        blocks=tuple(draw(st.lists(blocks, min_size=1, max_size=3))), scale=draw(st.floats(0.01, 1)),
        class_token=pool == "token" or draw(flag), distilled=distilled,
        reg_tokens=0 if distilled else draw(st.integers(0, 2)), no_embed_class=not distilled and draw(flag),
        pos_embed=distilled or draw(flag), global_pool=pool, pool_include_prefix=draw(flag),
        qkv_bias=draw(flag), qk_norm=draw(flag), proj_bias=draw(flag), layer_scale=draw(flag), pre_norm=draw(flag),
        final_norm=norm, fc_norm=norm and draw(flag), norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        act=draw(st.sampled_from(sorted(ACTIVATIONS.values()))),
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(specs())
def test_every_spec_is_built_runs_and_is_read_back(spec):
    model = build(spec)
    initialize(model)
    assert ArchSpec.of(model) == spec
    assert costs.params(spec) == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        logits = model.eval()(torch.zeros(2, spec.in_chans, *spec.img_size))
    assert logits.shape == (2, spec.num_classes or spec.embed_dim)
    assert logits.isfinite().all()


def test_the_result_is_timms_model():
    assert isinstance(build(SPEC), VisionTransformer)
    assert isinstance(build(SPEC.with_options(distilled=True)), VisionTransformerDistilled)


@pytest.mark.parametrize("distilled", [False, True])
def test_what_timm_changes_is_described(distilled):
    """Costs and compaction answer for the model as it is, not for the one that was built."""
    spec = SPEC.with_options(distilled=distilled)
    model = build(spec).eval()
    initialize(model)
    size = tuple(2 * side for side in spec.img_size)
    model.set_input_size(size)
    model.reset_classifier(7)
    assert model.spec == replace(spec, img_size=size, num_classes=7)
    assert costs.params(model.spec) == sum(parameter.numel() for parameter in model.parameters())
    images = torch.randn(2, spec.in_chans, *size)
    with torch.no_grad():
        torch.testing.assert_close(compact(model, None)(images), model(images), rtol=0, atol=1e-6)
        assert model(images).shape == (2, 7)


def test_building_on_meta_leaves_only_weights_there():
    ragged = SPEC.with_stage(vit_block(attention(4, (1, 3)), 2))
    with torch.device("meta"):
        model = build(ragged, rates={"drop_path_rate": 0.1})
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(list(model.buffers())) == 2
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert not any("pad" in key or "valid" in key for key in model.state_dict())


# Attention


def reference_attention(module: Attention, x: torch.Tensor) -> torch.Tensor:
    """Head by head, with a matrix product for every head of its own width."""
    heads, dim = module.num_heads, module.head_dim
    qkv = module.qkv(x)
    columns = iter(qkv.split([dim] * heads + [dim] * heads + list(module.value_dims), dim=-1))
    q, k, v = [[next(columns) for _ in range(heads)] for _ in range(3)]
    outputs = []
    for query, key, value in zip(q, k, v, strict=True):
        scores = module.q_norm(query) @ module.k_norm(key).transpose(-2, -1) * module.scale
        outputs.append(scores.softmax(-1) @ value)
    return module.proj(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("value_dims", [(4, 4, 4), (7, 7), (3,), (4, 1, 2), (1, 9, 9, 5)])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_equals_one_head_after_the_other(value_dims, qk_norm):
    module = Attention(
        SPEC.embed_dim,
        attention(4, value_dims),
        SPEC.options.scale,
        qk_norm=norm_of("layer", 1e-6) if qk_norm else None,
    ).double()
    randomize(module)
    x = torch.randn(2, 5, 12, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(module(x), reference_attention(module, x))
    ours = torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()])
    theirs = torch.autograd.grad(reference_attention(module, x).square().sum(), [x, *module.parameters()])
    torch.testing.assert_close(ours, theirs)


def test_attention_uses_the_scale_of_the_spec():
    module = Attention(SPEC.embed_dim, FULL.branches[0], SPEC.options.scale)
    randomize(module)
    x = torch.randn(1, 5, 12)
    with_half = module(x)
    module.scale = FULL.branches[0].query ** -0.5
    torch.testing.assert_close(with_half, module(x))  # 4 ** -0.5 is a half
    module.scale = 0.25
    assert (module(x) - with_half).abs().max() > 1e-2


def test_attention_takes_timms_masks():
    module = Attention(SPEC.embed_dim, FULL.branches[0], SPEC.options.scale).eval()
    theirs = timm.layers.Attention(12, 3, qkv_bias=True).eval()
    randomize(module)
    theirs.load_state_dict(module.state_dict())
    x = torch.randn(2, 5, 12)
    mask = torch.zeros(5, 5).masked_fill_(torch.eye(5).bool().roll(1, 0), float("-inf"))
    for arguments in ({}, {"attn_mask": mask}, {"is_causal": True}):
        torch.testing.assert_close(module(x, **arguments), theirs(x, **arguments))
    assert not torch.allclose(module(x), module(x, is_causal=True))


def test_attention_drops_only_in_training():
    module = Attention(SPEC.embed_dim, FULL.branches[0], SPEC.options.scale, attn_drop=0.5)
    randomize(module)
    x = torch.randn(1, 5, 12)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


# Blocks


def test_a_block_without_a_branch_has_none_of_its_weights():
    names = {name.partition(".")[0] for name in Block(SPEC, vit_block(None, 24)).state_dict()}
    assert names == {"norm2", "mlp"}
    names = {
        name.partition(".")[0]
        for name in Block(SPEC.with_options(layer_scale=True), vit_block(FULL.branches[0], None)).state_dict()
    }
    assert names == {"norm1", "attn", "ls1"}
    empty = Block(SPEC, vit_block(None, None))
    assert not empty.state_dict()
    x = torch.randn(1, 5, 12)
    assert empty(x) is x


def test_an_mlp_without_hidden_units_adds_its_bias():
    block = Block(SPEC, vit_block(None, 0))
    x = torch.randn(1, 5, 12)
    torch.testing.assert_close(block(x), x + block.mlp.fc2.bias)
    block(x).sum().backward()
    assert torch.equal(block.mlp.fc2.bias.grad, torch.full((12,), 5.0))


@pytest.mark.parametrize("act", sorted(ACTIVATIONS.values()))
def test_a_block_uses_the_activation_of_the_spec(act):
    block = Block(SPEC.with_options(act=act), vit_block(None, 24))
    randomize(block)
    expected = {
        "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu, "silu": F.silu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    }[act]  # fmt: skip
    x = torch.randn(1, 5, 12)
    torch.testing.assert_close(block(x), x + block.mlp.fc2(expected(block.mlp.fc1(block.norm2(x)))))


# Rates and initial weights


def test_rates_are_timms():
    rates = {"drop_rate": 0.1, "proj_drop_rate": 0.2, "attn_drop_rate": 0.3, "drop_path_rate": 0.4}
    spec = SPEC.with_stage(*[FULL] * 5)
    ours = build(spec, rates=rates)
    theirs = VisionTransformer(
        img_size=(16, 24), patch_size=8, in_chans=2, num_classes=5, embed_dim=12, depth=5, num_heads=3, mlp_ratio=2,
        **rates,
    )  # fmt: skip
    for one, other in zip(ours.blocks, theirs.blocks, strict=True):
        assert type(one.drop_path1) is type(other.drop_path1)
        assert getattr(one.drop_path1, "drop_prob", 0) == pytest.approx(getattr(other.drop_path1, "drop_prob", 0))
        for part in ("attn.attn_drop", "attn.proj_drop", "mlp.drop1", "mlp.drop2"):
            assert one.get_submodule(part).p == other.get_submodule(part).p
    assert ours.head_drop.p == theirs.head_drop.p == 0.1


def test_stochastic_depth_where_gates_decide():
    block, x = build(SPEC, rates={"drop_path_rate": 0.5}).train().blocks[-1], torch.randn(8, 5, SPEC.embed_dim)
    found = []
    for gates in (None, lambda number, seen: torch.ones(len(seen))):
        torch.manual_seed(1)
        found.append(block(x, gates=gates))
    torch.testing.assert_close(found[1], found[0])
    assert any(torch.equal(one, image) for one, image in zip(found[0], x, strict=True))  # both branches of it


def test_fresh_weights_are_drawn_as_timm_draws_them():
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", depth=2, img_size=32)
    ours = build(ArchSpec.of(theirs))
    for parameter in ours.parameters():
        parameter.data.fill_(7)
    initialize(ours)
    for (name, drawn), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert drawn.mean().item() == pytest.approx(expected.mean().item(), abs=0.01), name
        assert drawn.std().item() == pytest.approx(expected.std().item(), rel=0.2, abs=1e-6), name
