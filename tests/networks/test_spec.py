import dataclasses
import json
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import classifiers, patches, positions, vit, vit_block
from lightning_vitc.networks.spec import ArchSpec, as_ratio


def spec(embed_dim: int = 64, heads: int = 4, depth: int = 2, **fields) -> ArchSpec:
    head_dim = embed_dim // heads
    block = vit_block(attention(head_dim, (head_dim,) * heads), 4 * embed_dim)
    return vit("small", (32, 48), (8, 16), 3, 10, embed_dim, (block,) * depth, **{"scale": head_dim**-0.5} | fields)


sizes = st.integers(1, 64)
pairs = st.tuples(sizes, sizes)
attentions = st.builds(attention, sizes, st.lists(sizes, min_size=1, max_size=4))
blocks = st.builds(vit_block, st.none() | attentions, st.none() | st.integers(0, 256))
specs = st.builds(
    vit,
    name=st.text(max_size=20), img_size=pairs, patch_size=pairs, in_chans=sizes, num_classes=st.integers(0, 1000),
    embed_dim=sizes, blocks=st.lists(blocks, max_size=4), scale=st.floats(0.01, 1),
    class_token=st.booleans(), distilled=st.booleans(), reg_tokens=st.integers(0, 4), no_embed_class=st.booleans(),
    pos_embed=st.booleans(), global_pool=st.sampled_from(["token", "avg"]), pool_include_prefix=st.booleans(),
    qkv_bias=st.booleans(), qk_norm=st.booleans(), proj_bias=st.booleans(), layer_scale=st.booleans(),
    pre_norm=st.booleans(), final_norm=st.booleans(), fc_norm=st.booleans(), norm_eps=st.floats(1e-8, 1e-3),
    act=st.sampled_from(["gelu", "quick_gelu"]),
)  # fmt: skip


@given(specs)
def test_json_round_trip_gives_an_equal_spec_with_an_equal_hash(original):
    again = ArchSpec.from_json(original.to_json())
    assert again == original
    assert hash(again) == hash(original)
    assert isinstance(json.loads(original.to_json()), dict)


def test_the_json_has_every_field():
    names = {field.name for field in dataclasses.fields(ArchSpec)}
    assert set(json.loads(spec().to_json())) == names


def test_a_spec_is_frozen_and_serves_as_a_key():
    one = spec()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.num_classes = 3  # type: ignore[misc]
    assert {one: 1}[spec()] == 1
    assert spec() != spec(scale=0.5)


def test_derived_sizes():
    one = spec(distilled=True, reg_tokens=3)
    assert (one.depth, patches(one), one.options.prefix_tokens, positions(one)) == (2, 4 * 3, 5, (17,))
    assert (classifiers(one), classifiers(spec())) == (2, 1)
    attn = attention(16, (16, 4, 9))
    assert (attn.groups, attn.query_width, attn.width, attn.padded) == (3, 48, 29, 16)


def changed(**values) -> str:
    return json.dumps(json.loads(spec().to_json()) | values)


def with_options(**values) -> str:
    return changed(options=json.loads(spec().to_json())["options"] | values)


def with_stage(**values) -> str:
    return changed(stages=[{"width": 64, "blocks": []} | values])


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(spec().to_json()).items() if key != name})


def format_1(**values) -> str:
    """As versions wrote it that knew plain Vision Transformers alone."""
    blocks = [{"attn": {"head_dim": 16, "value_dims": [16] * 4}, "hidden": 256, "gates": [None, None]}] * 2
    options = dataclasses.asdict(spec().options) | {"name": "small", "img_size": [32, 48], "in_chans": 3}
    return json.dumps(options | {"num_classes": 10, "embed_dim": 64, "blocks": blocks} | values)


def test_files_of_before_are_read():
    assert ArchSpec.from_json(format_1()) == spec()
    ragged = [
        {"attn": None, "hidden": 7},
        {"attn": {"head_dim": 4, "value_dims": [4, 1]}, "hidden": None, "gates": ["relu", None]},
        {"attn": {"head_dim": 4, "value_dims": [4]}, "hidden": 3, "gates": [None, "linear"]},
    ]
    found = ArchSpec.from_json(format_1(blocks=ragged))
    assert found.blocks == (
        vit_block(None, 7), vit_block(attention(4, (4, 1), "relu"), None),
        vit_block(attention(4, (4,)), 3).with_gates((None, "linear")),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "architecture: not JSON"),
        ("", "architecture: not JSON"),
        ("[]", "architecture: "),
        ("null", "architecture: "),
        ('"text"', "architecture: "),
        (without("in_chans"), "in_chans"),
        (without("stages"), "embed_dim"),
        (without("family"), "family"),
        (changed(family="cnn"), "cnn"),
        (changed(colour="red"), "colour"),
        (changed(stages=None), "architecture: "),
        (with_stage(blocks=None), "architecture: "),
        (with_stage(blocks=[7]), "architecture: "),
        (with_stage(blocks=[{"branches": [{"kind": "mlp"}]}]), "pieces"),
        (with_stage(blocks=[{"branches": [{"kind": "mlp", "pieces": ["wide"]}]}]), "wide"),
        (with_stage(blocks=[{"branches": [{"kind": "mlp", "pieces": [4], "gate": "none"}]}]), "gate: 'none' is not"),
        (format_1(blocks=[{"attn": None}]), "hidden"),
        (format_1(blocks=[{"attn": {"head_dim": 4}, "hidden": 4}]), "value_dims"),
        (format_1(colour="red"), "colour"),
        (changed(img_size=32), "architecture: "),
        (changed(img_size=[32]), "img_size: [32] is not a list of 2 values"),
        (changed(img_size=[32, 0]), "img_size: [32, 0] is not a pair of numbers > 0"),
        (with_options(patch_size=[8, 0]), "patch_size: [8, 0] is not a pair of numbers > 0"),
        (with_stage(width="wide"), "width: 'wide' is not a whole number >= 0"),
        (with_stage(width=64.0), "width: 64.0 is not a whole number >= 0"),
        (with_stage(width=None), "width: None is not a whole number >= 0"),
        (with_stage(width=True), "width: True is not a whole number >= 0"),
        (changed(num_classes=-1), "num_classes: -1 is not a whole number >= 0"),
        (with_options(scale="small"), "scale: 'small' is not a number >= 0"),
        (with_options(scale=float("nan")), "scale: nan is not a number >= 0"),
        (with_options(class_token=1), "class_token: 1 is not true or false"),
        (with_options(act=3), "act: 3 is not a text"),
    ],
)
def test_from_json_names_what_is_wrong_in_one_line(text, message):
    with pytest.raises(UserError) as caught:
        ArchSpec.from_json(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("architecture: ")
    assert "\n" not in str(caught.value)


def test_at_width_narrows_every_dimension_and_keeps_the_scale():
    half = spec().at_width(Fraction(1, 2))
    assert half == spec(embed_dim=32, scale=64**-0.5 * 2)
    attn, _ = half.blocks[0]
    assert half.options.scale == spec().options.scale != attn.query**-0.5
    assert spec().at_width(1) == spec()
    assert spec().at_width(0.3125).embed_dim == 20


def test_at_width_can_keep_whole_heads():
    half = spec().at_width(0.5, cut="heads")
    assert half.blocks[0] == vit_block(attention(16, (16, 16)), 128)
    assert half.embed_dim == 32


def test_at_width_passes_over_branches_that_are_gone():
    bare = spec().with_stage(vit_block(None, None), vit_block(None, 8))
    assert bare.at_width(0.5).blocks == (vit_block(None, None), vit_block(None, 4))


@pytest.mark.parametrize(
    ("width", "cut", "message"),
    [
        (0, "dims", "width: 0 is out of range; it must be > 0 and <= 1"),
        (1.5, "dims", "width: 1.5 is out of range; it must be > 0 and <= 1"),
        (-0.25, "dims", "width: -0.25 is out of range; it must be > 0 and <= 1"),
        (0.3, "dims", "width: 0.3 of the embedding width 64 is 19.2, not a whole number"),
        (Fraction(1, 32), "dims", "width: 0.03125 of the head width 16 is 0.5, not a whole number"),
        (Fraction(3, 8), "heads", "width: 0.375 of the number of heads 4 is 1.5, not a whole number"),
        ("wide", "dims", "width: 'wide' is not a number; give a ratio such as 0.5"),
        ("1/0", "dims", "width: '1/0' is not a number; give a ratio such as 0.5"),
        (float("nan"), "dims", "width: nan is not a number; give a ratio such as 0.5"),
    ],
)
def test_a_width_that_does_not_come_out_whole_is_refused(width, cut, message):
    with pytest.raises(UserError) as caught:
        spec().at_width(width, cut=cut)
    assert str(caught.value) == message


def test_as_ratio_is_exact():
    assert as_ratio(0.1) == Fraction(1, 10)
    assert as_ratio("1/3") == Fraction(1, 3)
    assert as_ratio(Fraction(5, 16)) == as_ratio(0.3125)


def test_with_img_size():
    assert patches(spec().with_img_size((64, 16))) == 8
    for size, message in [
        ((30, 48), "img_size: 30 is not a multiple of the patch size 8; try 24 or 32"),
        ((32, 5), "img_size: 5 is not a multiple of the patch size 16; try 16"),
        ((0, 16), "img_size: 0 is not a multiple of the patch size 8; try 8"),
        ((-9, 16), "img_size: -9 is not a multiple of the patch size 8; try 8"),
    ]:
        with pytest.raises(UserError) as caught:
            spec().with_img_size(size)
        assert str(caught.value) == message


def test_a_spec_is_read_and_counted_without_torch():
    code = """
import sys
from lightning_vitc import costs
from lightning_vitc.networks.spec import ArchSpec
spec = ArchSpec.from_json(sys.stdin.read())
assert costs.macs(spec) and costs.params(spec)
assert "torch" not in sys.modules and "timm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], input=spec().to_json(), text=True, check=True)
