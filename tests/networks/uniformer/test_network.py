"""UniFormer: built from any spec, equal to the authors' formulas, cut, and run as any of its sub-networks."""

from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked_weights
from lightning_vitc.budget.unit_costs import UnitCosts
from lightning_vitc.errors import UserError
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.blocks import Block, Branch, Stage, attention, mlp
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.uniformer.names import NAMES
from lightning_vitc.networks.families.uniformer.network import UniFormer, build, initialize
from lightning_vitc.networks.families.uniformer.shape import Options
from lightning_vitc.networks.gates.attaching import gates_of
from lightning_vitc.networks.gates.shapes import GATES
from lightning_vitc.networks.gates.skipping import set_gating
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.slicing import RULES, slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import known_names
from tests.networks.layouts import check_layout
from tests.networks.own_models import images

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Any spec


widths, gates = st.integers(1, 5), st.none() | st.sampled_from(sorted(GATES))
attentions = st.builds(attention, widths, st.lists(widths, min_size=1, max_size=3).map(tuple), gates)
mixers = st.builds(lambda width, gate: Branch("mixer", (width,), gate=gate), widths, gates)
hidden = st.none() | st.builds(mlp, widths, gates)


@st.composite
def specs(draw) -> ArchSpec:
    options = Options(draw(st.floats(0.01, 1)), draw(st.integers(0, 3)), draw(st.sampled_from([1e-6, 1e-5])))
    stages = []
    for stage in range(4):
        blocks = st.builds(lambda *pair: Block(pair), st.none() | (mixers if stage < 2 else attentions), hidden)
        stages.append(Stage(draw(st.integers(1, 8)), tuple(draw(st.lists(blocks, max_size=2)))))
    size = 32 * draw(st.integers(1, 2)), 32 * draw(st.integers(1, 2))
    return ArchSpec("some", "uniformer", size, draw(st.integers(1, 3)), draw(st.integers(0, 4)), tuple(stages), options)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(specs())
def test_every_spec_is_built_named_counted_and_read_back(spec):
    with torch.device("meta"):
        model = build(spec).eval().requires_grad_(False)
        set_gating(model, "masked")
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            outputs = model(torch.empty(1, spec.in_chans, *spec.img_size))
    assert outputs.shape == (1, spec.num_classes or spec.feature_width)
    assert ArchSpec.of(model) == ArchSpec.from_json(spec.to_json()) == spec
    assert costs.params(spec) == sum(parameter.numel() for parameter in model.parameters())
    if all(len({branch.query, *branch.pieces}) == 1 for *_, branch in spec.branches() if branch.query):
        assert costs.macs(spec) == counter.get_total_flops() // 2
    check_layout(spec, model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_published_networks(name):
    """Their exact numbers are in tests/networks/test_exact_numbers.py: these are of what is built."""
    with torch.device("meta"):
        model = build(NAMES[name]()).eval().requires_grad_(False)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() // 2 == costs.macs(model.spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == costs.params(model.spec)


# The authors' formulas, written out: all stages are images there


def normed(x: Tensor, norm) -> Tensor:
    """By a batch norm's statistics."""
    weight, bias, mean, var = (
        part[:, None, None] for part in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def convolved(x: Tensor, layer, stride: int = 1, padding: int = 0) -> Tensor:
    groups = x.shape[1] // layer.weight.shape[1]
    return F.conv2d(x, layer.weight, layer.bias, stride, padding, groups=groups)


def entered(x: Tensor, entrance, first: bool) -> Tensor:
    if hasattr(entrance, "norm"):
        x = convolved(x, entrance.proj, stride=4 if first else 2)
        norm = entrance.norm
        return F.layer_norm(x.movedim(1, -1), norm.weight.shape, norm.weight, norm.bias, 1e-5).movedim(-1, 1)
    layers = entrance.proj
    x = normed(convolved(x, layers[0], 2, 1), layers[1])
    return normed(convolved(F.gelu(x), layers[3], 2, 1), layers[4]) if first else x


def of_images(x: Tensor, block) -> Tensor:
    mixed = convolved(convolved(normed(x, block.norm1), block.conv1), block.attn, padding=2)
    x = x + convolved(mixed, block.conv2)
    return x + convolved(F.gelu(convolved(normed(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)


def of_tokens(x: Tensor, block) -> Tensor:
    grid, x = x.shape[2:], x.flatten(2).transpose(1, 2)
    heads, query = block.attn.num_heads, block.attn.head_dim

    def norm(x: Tensor, layer) -> Tensor:
        return F.layer_norm(x, layer.weight.shape, layer.weight, layer.bias, 1e-6)

    q, k, v = (
        part.unflatten(-1, (heads, query)).transpose(1, 2) for part in block.attn.qkv(norm(x, block.norm1)).chunk(3, -1)
    )
    mixed = (q @ k.transpose(-2, -1) * query**-0.5).softmax(-1) @ v
    x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(norm(x, block.norm2))))
    return x.transpose(1, 2).unflatten(2, grid)


def test_logits_are_those_of_the_formulas(tiny):
    inputs = x = images(tiny)
    with torch.no_grad():
        for number in range(4):
            x = entered(x, getattr(tiny, f"patch_embed{number + 1}"), number == 0)
            for block in getattr(tiny, f"blocks{number + 1}"):
                x = x + convolved(x, block.pos_embed, padding=1)
                x = (of_images if number < 2 else of_tokens)(x, block)
        expected = tiny.head(normed(x, tiny.norm).mean((2, 3)))
        torch.testing.assert_close(tiny(inputs), expected, rtol=0, atol=1e-5)


def test_fresh_weights():
    model = create_backbone("uniformer_small", img_size=32, depths=[1, 1, 1, 1])
    assert model.blocks3[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks1[0].mlp.fc1.weight.std().item() == pytest.approx((1 / 64 / 3) ** 0.5, rel=0.05)  # torch's own
    assert not model.head.bias.any()


# Names of our own


def test_timm_knows_our_names():
    assert {*NAMES} <= {*known_names()}
    model = timm.create_model("uniformer_small_plus", img_size=32, depths=[1, 0, 1, 0], num_classes=3)
    assert type(model) is UniFormer
    assert model.spec.depths == (1, 0, 1, 0)
    config = timm.data.resolve_data_config(model=model)
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bicubic")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"img_size": 40}, "img_size: 40 is not a multiple of 32"),
        ({"embed_dim": 64}, "model.embed_dim: 64 is no list of 4 numbers, of the stages of uniformer_small"),
        ({"depths": [1, 2]}, "model.depths: [1, 2] is no list of 4 numbers, of the stages of uniformer_small"),
        ({"num_heads": [5, 7]}, "model.num_heads: [5, 7] heads of widths [320, 512] are not all as wide"),
        ({"num_heads": [3, 3]}, "model.num_heads: [3, 3] heads of widths [320, 512] are not all as wide"),
        ({"patch_size": 8}, "model.patch_size: this model does not take it; it takes embed_dim, depths, num_heads, "
         "mlp_ratio, img_size, in_chans"),
        ({"pretrained": True},
         "model.pretrained: nobody offers the weights of uniformer_small by its name; give a file of them"),
    ],
)  # fmt: skip
def test_refusals(keys, message):
    with pytest.raises(UserError) as caught:
        create_backbone("uniformer_small", **keys)
    assert str(caught.value) == message


# Checkpoints


@pytest.mark.parametrize("wrapper", ["model", None])
def test_a_file_of_the_authors_loads_strictly(tmp_path, tiny, wrapper):
    weights = dict(tiny.state_dict())
    torch.save({wrapper: weights} if wrapper else weights, tmp_path / "a.pth")
    keys = {"embed_dim": [8, 16, 16, 24], "depths": [2, 1, 2, 2], "num_heads": [2, 3], "num_classes": 5}
    loaded = create_backbone(tiny.spec.name, str(tmp_path / "a.pth"), img_size=64, **keys)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    other = create_backbone(tiny.spec.name, str(tmp_path / "a.pth"), new_head=True, **keys | {"num_classes": 7})
    assert torch.equal(other.blocks4[1].attn.qkv.weight, weights["blocks4.1.attn.qkv.weight"])
    sister = {"uniformer_small": "uniformer_small_plus", "uniformer_small_plus": "uniformer_small"}[tiny.spec.name]
    with pytest.raises(UserError, match=r"not a checkpoint of this model: patch_embed1\..* is missing$"):
        create_backbone(sister, str(tmp_path / "a.pth"), **keys)


def test_another_classifier_is_described(tiny):
    tiny.reset_classifier(9)
    assert ArchSpec.of(tiny) == replace(tiny.spec, num_classes=9)
    assert tiny(images(tiny)).shape == (2, 9)
    initialize(tiny)
    assert tiny(images(tiny)).isfinite().all()


def test_widths_of_the_paper_come_out_whole():
    for name in ("uniformer_small", "uniformer_small_plus"):
        for sixteenths in range(4, 17):
            small = NAMES[name]().at_width(Fraction(sixteenths, 16))
            assert small.widths == tuple(width * sixteenths // 16 for width in (64, 128, 320, 512))
            assert [branch.groups for *_, branch in small.branches()] == [
                branch.groups for *_, branch in NAMES[name]().branches()
            ]
    with pytest.raises(UserError, match=r"width: 0\.3 of"):
        NAMES["uniformer_small_plus"]().at_width(Fraction("0.3"))


# Smaller networks


def test_masked_is_compact(tiny):
    spec, masks = tiny.spec, Masks.full(tiny.spec)
    masks.dims[0, 0, :3] = masks.dims[2, 0, 8:] = False  # of mixers
    masks.dims[3, 1] = masks.dims[5, :, ::3] = False
    masks.channels[:4, ::2] = False
    masks.branches[0, 0] = masks.branches[3, 1] = masks.branches[4, 0] = False
    masks.branches[1] = False  # its position stays
    kept, x = kept_of(spec, masks), images(tiny)
    small = compact(tiny, kept)
    with torch.no_grad():
        expected = torch.func.functional_call(tiny, masked_weights(tiny, masks), (x,))
        torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5)
        assert (tiny(x) - expected).abs().max() > 1e-3
    assert ArchSpec.of(small) == kept.spec
    assert small.spec.blocks[1] == Block((None, None))
    assert small.spec.blocks[2].branches[0] == Branch("mixer", (8,))
    assert costs.macs(small.spec) == UnitCosts.of(spec).total(masks)
    assert costs.params(small.spec) == UnitCosts.of(spec, "params").total(masks)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("width", ["1/4", "1/2", "3/4"])
def test_a_slice_is_a_network_of_its_own(made, rule, width):
    tiny = made("uniformer_small_plus", embed_dim=[8, 16, 32, 64], num_heads=[4, 8], depths=[1, 1, 1, 1])
    kept, x = slice_width(tiny.spec, Fraction(width), rule), images(tiny)
    small = compact(tiny, kept)
    with torch.no_grad():
        torch.testing.assert_close(tiny(x, kept=kept), small(x), rtol=0, atol=1e-5)
    full, ratio = tiny.state_dict(), Fraction(width)
    for name, weight in small.state_dict().items():
        whole = full[name]
        if "qkv" not in name and weight.ndim and name != "head.bias" and rule != "per_head":
            assert torch.equal(weight, whole[tuple(slice(size) for size in weight.shape)]), name
    assert len(small.blocks1[0].norm1.running_mean) == 8 * ratio
    assert [block.attn.num_heads for block in small.blocks[2:]] == (
        [4 * ratio, 8 * ratio] if rule == "heads" else [4, 8]
    )
    assert small.blocks3[0].attn.scale == 8**-0.5


# Gates


def test_gates_skip_alike_in_every_mode(tiny):
    spec = tiny.spec.with_gates([("gelu", "relu_ln"), ("linear", None), (None, "gelu")] * 2 + [("relu", None)])
    model, x = build(spec).eval(), images(tiny, 6)
    initialize(model)
    with torch.no_grad():
        for gate in gates_of(model):
            gate.last.weight.normal_(0, 3)
        found = {mode: set_gating(model, mode) or model(x) for mode in ("masked", "per_sample")}
        torch.testing.assert_close(found["per_sample"], found["masked"], rtol=0, atol=1e-5)
        together = [set_gating(model, mode) or model(x[:1]) for mode in ("masked", "per_batch")]
        torch.testing.assert_close(together[1], together[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("unit", [1, 2], ids=["blocks", "branches"])
def test_a_gate_that_is_shut_leaves_the_position(tiny, unit):
    """What is trained with gates is what is left when they are shut."""
    x, open_ = images(tiny), torch.ones(7, unit)
    open_[0] = open_[4] = 0
    blocks = [Block((None, None)) if number in (0, 4) else block for number, block in enumerate(tiny.spec.blocks)]
    small = compact(tiny, Kept.of(tiny.spec, tiny.spec.with_blocks(blocks), {}))
    with torch.no_grad():
        torch.testing.assert_close(tiny(x, gates=open_.squeeze(1)), small(x), rtol=0, atol=1e-5)


def test_training_by_graphs_and_with_recomputation(tiny):
    """One graph without breaks, and with either the same gradients and running statistics."""
    x, found, before = images(tiny, 4), [], deepcopy(tiny.state_dict())
    for how in ("as written", "recomputed", "one graph"):
        tiny.load_state_dict(before)
        tiny.train().zero_grad()
        tiny.set_grad_checkpointing(how == "recomputed")
        features = tiny.forward_features
        if how == "one graph":
            features = torch.compile(partial(UniFormer.features, tiny), backend="eager", fullgraph=True)
        tiny.forward_head(features(x)).square().sum().backward()
        statistics = [value for name, value in tiny.state_dict().items() if "running" in name]
        found.append([*(weight.grad.clone() for weight in tiny.parameters()), *map(torch.clone, statistics)])
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
