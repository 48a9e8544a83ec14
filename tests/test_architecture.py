import dataclasses
import json
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_vitc.architecture import ArchSpec, AttentionSpec, BlockSpec, as_ratio
from lightning_vitc.errors import UserError


def spec(embed_dim: int = 64, heads: int = 4, depth: int = 2, **fields) -> ArchSpec:
    head_dim = embed_dim // heads
    block = BlockSpec(AttentionSpec(head_dim, (head_dim,) * heads), 4 * embed_dim)
    return ArchSpec(
        "small", (32, 48), (8, 16), 3, 10, embed_dim, (block,) * depth, **{"scale": head_dim**-0.5} | fields
    )


sizes = st.integers(1, 64)
pairs = st.tuples(sizes, sizes)
attentions = st.builds(AttentionSpec, sizes, st.lists(sizes, min_size=1, max_size=4).map(tuple))
blocks = st.builds(BlockSpec, st.none() | attentions, st.none() | st.integers(0, 256))
specs = st.builds(
    ArchSpec,
    name=st.text(max_size=20), img_size=pairs, patch_size=pairs, in_chans=sizes, num_classes=st.integers(0, 1000),
    embed_dim=sizes, blocks=st.lists(blocks, max_size=4).map(tuple), scale=st.floats(0.01, 1),
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
        one.embed_dim = 3  # type: ignore[misc]
    assert {one: 1}[spec()] == 1
    assert spec() != spec(scale=0.5)


def test_derived_sizes():
    one = spec(distilled=True, reg_tokens=3)
    assert (one.depth, one.num_patches, one.num_prefix_tokens, one.num_tokens) == (2, 4 * 3, 5, 17)
    assert (one.num_heads_out, spec().num_heads_out) == (2, 1)
    attn = AttentionSpec(16, (16, 4, 9))
    assert (attn.num_heads, attn.qk_dim, attn.value_dim) == (3, 48, 29)


def changed(**values) -> str:
    return json.dumps(json.loads(spec().to_json()) | values)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(spec().to_json()).items() if key != name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "architecture: not JSON"),
        ("", "architecture: not JSON"),
        ("[]", "architecture: "),
        ("null", "architecture: "),
        ('"text"', "architecture: "),
        (without("embed_dim"), "embed_dim"),
        (without("blocks"), "blocks"),
        (changed(colour="red"), "colour"),
        (changed(blocks=None), "architecture: "),
        (changed(blocks=[7]), "architecture: "),
        (changed(blocks=[{"attn": None}]), "hidden"),
        (changed(blocks=[{"attn": {"head_dim": 4}, "hidden": 4}]), "value_dims"),
        (changed(blocks=[{"attn": {"head_dim": "wide", "value_dims": [4]}, "hidden": 4}]), "wide"),
        (changed(img_size=32), "architecture: "),
        (changed(img_size=[32]), "img_size: [32] is not a pair of numbers > 0"),
        (changed(patch_size=[8, 0]), "patch_size: [8, 0] is not a pair of numbers > 0"),
        (changed(embed_dim="wide"), "embed_dim: 'wide' is not a whole number >= 0"),
        (changed(embed_dim=64.0), "embed_dim: 64.0 is not a whole number >= 0"),
        (changed(embed_dim=None), "embed_dim: None is not a whole number >= 0"),
        (changed(embed_dim=True), "embed_dim: True is not a whole number >= 0"),
        (changed(num_classes=-1), "num_classes: -1 is not a whole number >= 0"),
        (changed(scale="small"), "scale: 'small' is not a number >= 0"),
        (changed(scale=float("nan")), "scale: nan is not a number >= 0"),
        (changed(class_token=1), "class_token: 1 is not true or false"),
        (changed(act=3), "act: 3 is not a text"),
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
    assert half.scale == spec().scale != half.blocks[0].attn.head_dim ** -0.5
    assert spec().at_width(1) == spec()
    assert spec().at_width(0.3125).embed_dim == 20


def test_at_width_can_keep_whole_heads():
    half = spec().at_width(0.5, cut="heads")
    assert half.blocks[0] == BlockSpec(AttentionSpec(16, (16, 16)), 128)
    assert half.embed_dim == 32


def test_at_width_passes_over_branches_that_are_gone():
    bare = dataclasses.replace(spec(), blocks=(BlockSpec(None, None), BlockSpec(None, 8)))
    assert bare.at_width(0.5).blocks == (BlockSpec(None, None), BlockSpec(None, 4))


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
    assert spec().with_img_size((64, 16)).num_patches == 8
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
from lightning_vitc.architecture import ArchSpec
spec = ArchSpec.from_json(sys.stdin.read())
assert costs.macs(spec) and costs.params(spec)
assert "torch" not in sys.modules and "timm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], input=spec().to_json(), text=True, check=True)
