"""T2T-ViT: built from any spec, equal to the authors' formulas, cut, and run as any of its sub-networks."""

import math
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

from lightning_vitc.artifacts.formats import FILES
from lightning_vitc.budget.masks import Masks
from lightning_vitc.budget.prunable import kept_of, masked_weights
from lightning_vitc.errors import UserError
from lightning_vitc.exporting.deployed import OnnxNetwork, Pt2Network
from lightning_vitc.exporting.write_formats import write_formats
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.blocks import Block, Stage, attention, mlp
from lightning_vitc.networks.compaction import compact
from lightning_vitc.networks.families.t2t.layers import sinusoid
from lightning_vitc.networks.families.t2t.network import T2TViT, build, initialize
from lightning_vitc.networks.families.t2t.shape import TOKEN, TOKEN_LAYERS, Options
from lightning_vitc.networks.gates.attaching import gates_of
from lightning_vitc.networks.gates.shapes import GATES
from lightning_vitc.networks.gates.skipping import set_gating
from lightning_vitc.networks.slicing import RULES, slice_width
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import create_timm, known_names
from tests.networks.layouts import check_layout
from tests.networks.own_models import images

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Any spec


widths, gates = st.integers(1, 5), st.none() | st.sampled_from(sorted(GATES))
attentions = st.builds(attention, widths, st.lists(widths, min_size=1, max_size=3).map(tuple), gates)
blocks = st.builds(lambda *branches: Block(branches), st.none() | attentions, st.none() | st.builds(mlp, widths, gates))


@st.composite
def specs(draw) -> ArchSpec:
    options = Options(
        draw(st.floats(0.01, 1)), draw(st.sampled_from(TOKEN_LAYERS)), draw(st.integers(1, 6)), draw(st.integers(1, 6)),
        draw(st.booleans()), draw(st.sampled_from([1e-6, 1e-5])),
    )  # fmt: skip
    stage = Stage(draw(st.integers(1, 8)), tuple(draw(st.lists(blocks, min_size=1, max_size=3))))
    size = 16 * draw(st.integers(1, 3))
    return ArchSpec("some", "t2t", (size, size), draw(st.integers(1, 3)), draw(st.integers(0, 4)), (stage,), options)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(specs())
def test_every_spec_is_built_named_counted_and_read_back(spec):
    with torch.device("meta"):
        model = build(spec).eval()
        model.requires_grad_(False)
        set_gating(model, "masked")
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            assert model(torch.empty(1, spec.in_chans, *spec.img_size)).shape == (1, spec.num_classes or spec.embed_dim)
    assert ArchSpec.of(model) == ArchSpec.from_json(spec.to_json()) == spec
    assert costs.params(spec) == sum(parameter.numel() for parameter in model.parameters())
    if not spec.is_gated and all(
        len({branch.query, *branch.pieces}) == 1 for *_, branch in spec.branches() if branch.query
    ):
        assert costs.macs(spec) == counter.get_total_flops() // 2
    check_layout(spec, model.state_dict(), **{TOKEN: spec.options.token_width})


# The authors' formulas, written out


def attended_by_features(layer, x: Tensor) -> Tensor:
    """Position by position and feature by feature, as in the paper."""
    k, q, v = layer.kqv(layer.norm1(x)).split(len(layer.proj.weight), dim=-1)
    m = len(layer.w)

    def phi(u: Tensor) -> Tensor:
        return torch.stack([torch.exp((u * row).sum(-1) - (u * u).sum(-1) / 2) for row in layer.w], dim=-1) / m**0.5

    keys, queries = phi(k), phi(q)
    sums = torch.einsum("bnm,bnd->bmd", keys, v)
    total = torch.einsum("bnm,bm->bn", queries, keys.sum(1))[..., None]
    y = torch.einsum("bnm,bmd->bnd", queries, sums) / (total + 1e-8)
    x = v + F.linear(y, layer.proj.weight, layer.proj.bias)
    return x + layer.mlp(layer.norm2(x))


def attended_by_softmax(layer, x: Tensor) -> Tensor:
    q, k, v = layer.attn.qkv(layer.norm1(x)).chunk(3, dim=-1)
    x = v + layer.attn.proj((q @ k.transpose(1, 2) * x.shape[-1] ** -0.5).softmax(-1) @ v)
    return x + layer.mlp(layer.norm2(x))


def patches(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """[B, C, H, W] -> [B, N, C · k²], the channel before the position."""
    padded = F.pad(x, (padding,) * 4)
    side = (x.shape[-1] + 2 * padding - kernel) // stride + 1
    cells = [
        padded[:, :, stride * row : stride * row + kernel, stride * column : stride * column + kernel].flatten(1)
        for row in range(side) for column in range(side)
    ]  # fmt: skip
    return torch.stack(cells, dim=1)


def test_logits_are_those_of_the_formulas(tiny):
    x, layers = images(tiny), tiny.tokens_to_token
    attended = attended_by_features if tiny.spec.options.token_layers == "performer" else attended_by_softmax
    with torch.no_grad():
        tokens = attended(layers.attention1, patches(x, 7, 4, 2))
        tokens = attended(layers.attention2, patches(tokens.transpose(1, 2).unflatten(2, (8, 8)), 3, 2, 1))
        tokens = layers.project(patches(tokens.transpose(1, 2).unflatten(2, (4, 4)), 3, 2, 1))
        tokens = torch.cat([tiny.cls_token.expand(len(x), 1, -1), tokens], dim=1) + tiny.pos_embed
        for block in tiny.blocks:
            q, k, v = (
                part.unflatten(-1, (4, 8)).transpose(1, 2)
                for part in F.linear(block.norm1(tokens), block.attn.qkv.weight).chunk(3, dim=-1)
            )
            mixed = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
            tokens = tokens + block.attn.proj(mixed.transpose(1, 2).flatten(2))
            tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens))))
        torch.testing.assert_close(tiny(x), tiny.head(tiny.norm(tokens)[:, 0]), rtol=0, atol=1e-5)


def test_positions_are_sines_and_cosines():
    table = sinusoid(5, 6)[0]
    for position in range(5):
        for place in range(6):
            angle = position / 10000 ** (2 * (place // 2) / 6)
            assert table[position, place] == pytest.approx(math.cos(angle) if place % 2 else math.sin(angle), abs=1e-6)


def test_fresh_weights(made):
    model = create_backbone("t2t_vit_14", img_size=32, depth=1)
    features = model.tokens_to_token.attention1.w
    torch.testing.assert_close(features @ features.t(), 32 * torch.eye(32), rtol=0, atol=1e-4)
    assert torch.equal(model.pos_embed, sinusoid(5, 384))
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.head.bias.any()


def test_what_is_frozen_is_counted_but_neither_trained_nor_decayed(made):
    model = made("t2t_vit_14")
    frozen = {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    assert {
        name for name, parameter in model.requires_grad_(True).named_parameters() if not parameter.requires_grad
    } == frozen
    with torch.device("meta"):
        whole = create_timm("t2t_vit_14")
    assert sum(parameter.numel() for parameter in whole.parameters() if parameter.requires_grad) == 21_465_806
    before = {name: model.get_parameter(name).clone() for name in frozen}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    half = slice_width(model.spec, Fraction(1, 2))
    for kept in (None, half):
        model.train()(images(model), kept=kept).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_token_module_runs_in_single_precision(made, kind):
    """Features are as large as e^16, and half precision ends at 65504."""
    model = made("t2t_vit_14")
    with torch.no_grad():
        for layer in (model.tokens_to_token.attention1, model.tokens_to_token.attention2):
            layer.kqv.weight.zero_()
            layer.kqv.bias[:128] = layer.w[0].repeat(2)
        expected = model.embed(x := images(model))
        with torch.autocast("cpu", dtype=kind):
            assert torch.equal(model.embed(x), expected)
        features = layer._features(layer.kqv.bias[:64].to(kind))
        assert features.max() > 65504
        assert model.to(kind).embed(x.to(kind)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_written_formats_take_any_batch(tmp_path, tiny, form):
    small = compact(tiny, slice_width(tiny.spec, Fraction(1, 2)))
    for name, weight in small.named_parameters():
        weight.data *= 10 if "attention2.kqv" in name else 1  # features vanish, and with them a denominator
    write_formats(small, tmp_path, [form], {})
    network = (Pt2Network if form == "pt2" else OnnxNetwork)(tmp_path / FILES[form])
    for count in (1, 3):
        x = images(tiny, count)
        with torch.no_grad():
            torch.testing.assert_close(network(x), small(x), rtol=0, atol=1e-5)


def test_the_format_of_timm_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match=f"^--formats: timm: plain .* not {tiny.spec.name}$"):
        write_formats(compact(tiny, None), tmp_path, ["timm"], {})


def test_training_by_graphs_and_with_recomputation(tiny):
    """One graph without breaks, and with either the same gradients."""
    x, found = images(tiny), []
    for how in ("as written", "recomputed", "one graph"):
        tiny.zero_grad()
        tiny.set_grad_checkpointing(how == "recomputed")
        features = tiny.forward_features
        if how == "one graph":
            features = torch.compile(partial(T2TViT.features, tiny), backend="eager", fullgraph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tiny.forward_head(features(x)).float().square().sum().backward()
        found.append([weight.grad.clone() for weight in tiny.parameters() if weight.grad is not None])
    for other in found[1:]:
        assert len(other) == len(found[0])
        for ours, theirs in zip(other, found[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# Smaller networks


def test_masked_is_compact_is_the_sub_network(tiny):
    spec, masks = tiny.spec, Masks.full(tiny.spec)
    masks.dims[0, 1] = False
    masks.dims[1, :, ::3] = False
    masks.channels[:2, ::2] = False
    masks.branches[1, 1] = masks.branches[2, 0] = False
    masks.branches[0] = torch.tensor([True, True])
    kept, x = kept_of(spec, masks), images(tiny)
    small = compact(tiny, kept)
    with torch.no_grad():
        expected = torch.func.functional_call(tiny, masked_weights(tiny, masks), (x,))
        torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(tiny(x, kept=kept), expected, rtol=0, atol=1e-5)
        assert (tiny(x) - expected).abs().max() > 1e-3
    assert type(small) is T2TViT
    assert ArchSpec.of(small) == kept.spec
    assert costs.params(kept.spec) == sum(parameter.numel() for parameter in small.parameters())
    assert not small.pos_embed.requires_grad


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("width", ["1/4", "1/2", "3/4"])
def test_a_slice_is_a_network_of_its_own(tiny, rule, width):
    kept, x = slice_width(tiny.spec, Fraction(width), rule), images(tiny)
    own = build(kept.spec).eval()
    own.load_state_dict(compact(tiny, kept).state_dict())
    with torch.no_grad():
        torch.testing.assert_close(own(x), tiny(x, kept=kept), rtol=0, atol=1e-5)
    assert torch.equal(own.tokens_to_token.attention2.norm2.weight, tiny.tokens_to_token.attention2.norm2.weight)
    assert torch.equal(own.tokens_to_token.project.weight, tiny.tokens_to_token.project.weight[: own.embed_dim])
    assert own.blocks[0].attn.scale == 8**-0.5


# Gates


def test_gates_skip_alike_in_every_mode(tiny):
    spec, x = tiny.spec.with_gates([("gelu", "relu_ln"), ("linear", None), (None, "gelu")]), images(tiny, 6)
    model = build(spec).eval()
    initialize(model)
    with torch.no_grad():
        for gate in gates_of(model):
            gate.last.weight.normal_(0, 3)
        found = {mode: set_gating(model, mode) or model(x) for mode in ("masked", "per_sample")}
        torch.testing.assert_close(found["per_sample"], found["masked"], rtol=0, atol=1e-5)
        together = [set_gating(model, mode) or model(x[:1]) for mode in ("masked", "per_batch")]
        torch.testing.assert_close(together[1], together[0], rtol=0, atol=1e-5)


# Names of our own


def test_timm_knows_our_names():
    assert {"t2t_vit_7", "t2t_vit_10", "t2t_vit_12", "t2t_vit_14", "t2t_vit_19", "t2t_vit_24", "t2t_vit_t_14"} <= {
        *known_names()
    }
    model = timm.create_model("t2t_vit_14", img_size=32, depth=1, num_classes=3)
    assert type(model) is T2TViT
    assert model.spec.name == "t2t_vit_14"
    assert model.pretrained_cfg["architecture"] == "t2t_vit_14"
    config = timm.data.resolve_data_config(model=model)
    assert (config["crop_pct"], config["interpolation"]) == (0.9, "bicubic")
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["std"] == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("t2t_vit_41", {}, "model.name: unknown timm model 't2t_vit_41'; did you mean 't2t_vit_10', 't2t_vit_12' or "
         "'t2t_vit_14'?"),
        ("t2t_vit_14", {"img_size": 40}, "img_size: 40x40 is not a square whose side is a multiple of 16"),
        ("t2t_vit_14", {"num_heads": 5}, "model.num_heads: embed_dim=384 of t2t_vit_14 is not divisible by 5"),
        ("t2t_vit_14", {"patch_size": 8}, "model.patch_size: this model does not take it; it takes embed_dim, depth, "
         "num_heads, mlp_ratio, img_size, in_chans, qkv_bias, norm_eps"),
        ("t2t_vit_14", {"pretrained": True},
         "model.pretrained: nobody offers the weights of t2t_vit_14 by its name; give a file of them"),
        ("t2t_vit_14.in1k", {}, "model: timm cannot build t2t_vit_14.in1k with these arguments: Invalid pretrained tag "
         "(in1k) for t2t_vit_14."),
    ],
)  # fmt: skip
def test_refusals(name, keys, message):
    with pytest.raises(UserError) as caught:
        create_backbone(name, **keys)
    assert str(caught.value) == message


# Checkpoints


def test_a_file_of_the_authors_loads_strictly(tmp_path, tiny):
    """Under `state_dict_ema`, with the prefix of DDP, beside the last weights."""
    weights = {f"module.{name}": value for name, value in tiny.state_dict().items()}
    last = {name: value + 1 for name, value in weights.items()}
    torch.save(
        {"epoch": 309, "arch": "t2t_vit_14", "state_dict": last, "state_dict_ema": weights}, tmp_path / "a.pth.tar"
    )
    keys = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2, "num_classes": 5}
    with pytest.warns(UserWarning, match="state_dict_ema is taken"):
        loaded = create_backbone(tiny.spec.name, str(tmp_path / "a.pth.tar"), **keys)
    assert all(torch.equal(value, tiny.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.save({"state_dict_ema": weights}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="not a checkpoint of this model: its depth is 3, the model's is 2"):
        create_backbone(tiny.spec.name, str(tmp_path / "b.pth"), **keys | {"depth": 2})


def test_a_new_head_and_another_image_size(tmp_path, made):
    model = made("t2t_vit_14", img_size=48)
    torch.save({"state_dict_ema": model.state_dict()}, tmp_path / "a.pth")
    keys = {"embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    loaded = create_backbone(
        "t2t_vit_14", str(tmp_path / "a.pth"), new_head=True, img_size=64, num_classes=7, **keys
    ).eval()
    grid = model.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (3, 3))
    wanted = F.interpolate(grid, size=(4, 4), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(loaded.pos_embed, torch.cat([model.pos_embed[:, :1], wanted], dim=1), rtol=0, atol=1e-6)
    assert not loaded.pos_embed.requires_grad
    assert loaded(torch.randn(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(loaded.blocks[2].mlp.fc1.weight, model.blocks[2].mlp.fc1.weight)
    model.set_input_size((64, 64))
    assert torch.equal(model.pos_embed, loaded.pos_embed)
    assert "pos_embed" in model.constants
    assert not model.pos_embed.requires_grad
    with pytest.raises(UserError, match=r"^img_size: 64x48 is not a square"):
        model.set_input_size((64, 48))


def test_another_classifier_is_described(made):
    model = made("t2t_vit_14")
    model.reset_classifier(9)
    assert model.spec.num_classes == 9
    assert ArchSpec.of(model) == replace(model.spec, num_classes=9)
    assert model(images(model)).shape == (2, 9)
    initialize(model)
    assert model(images(model)).isfinite().all()
