import json
from fractions import Fraction

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_vitc import cli, costs
from lightning_vitc.artifacts import artifact
from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.network import build
from lightning_vitc.networks.families.plain.shape import PART_NAMES, positions, vit, vit_block
from lightning_vitc.networks.spec import ArchSpec


def deit(embed_dim: int, heads: int, **fields) -> ArchSpec:
    """ViT = DeiT of the papers: depth 12, patch 16, 224 px, 1000 classes."""
    block = vit_block(attention(embed_dim // heads, (embed_dim // heads,) * heads), 4 * embed_dim)
    return vit("deit", (224, 224), (16, 16), 3, 1000, embed_dim, (block,) * 12, 64**-0.5, **fields)


SMALL, BASE = deit(384, 6), deit(768, 12)
SMALL_DISTILLED, BASE_DISTILLED = deit(384, 6, distilled=True), deit(768, 12, distilled=True)
BLOCK_GONE = vit_block(None, None)


def paper(spec: ArchSpec, method: str) -> int:
    return costs.macs(spec, convention="paper", method=method)


# Scala (Zhang et al., NeurIPS 2024)


@pytest.mark.parametrize(
    ("width", "params", "macs"),
    [(0.25, 1_629_296, 0.3677), (0.5, 5_910_800, 1.2610), (0.75, 12_846_512, 2.6798), (1, 22_436_432, 4.6241)],
)
def test_scala_table_of_deit_s(width, params, macs):
    spec = SMALL_DISTILLED.at_width(width)
    assert costs.params(spec) == params
    assert round(costs.macs(spec) / 1e9, 4) == macs
    assert paper(spec, "scala") == paper(spec, "usdc") == costs.macs(spec)


@pytest.mark.parametrize(("width", "macs"), [(0.25, 1.2610), (0.5, 4.6241), (0.75, 10.0894), (1, 17.6568)])
def test_scala_table_of_deit_b(width, macs):
    assert round(costs.macs(BASE_DISTILLED.at_width(width)) / 1e9, 4) == macs


def test_scala_macs_of_deit_s_to_the_last_digit():
    macs = [costs.macs(SMALL_DISTILLED.at_width(width)) for width in (0.25, 0.5, 0.75, 1)]
    assert macs == [367_735_296, 1_261_003_776, 2_679_805_440, 4_624_140_288]


@pytest.mark.parametrize("number", range(8, 33))
@pytest.mark.parametrize("full", ["small", "base"])
def test_scala_polynomials(number, full):
    plain, distilled = (SMALL, SMALL_DISTILLED) if full == "small" else (BASE, BASE_DISTILLED)
    width = Fraction(number, 32)
    d = int(plain.embed_dim * width)
    narrow, narrow_distilled = plain.at_width(width), distilled.at_width(width)
    assert costs.params(narrow) == 144 * d**2 + 2125 * d + 1000
    assert costs.macs(narrow) == 28368 * d**2 + 1082944 * d
    assert costs.params(narrow_distilled) == 144 * d**2 + 3127 * d + 2000
    assert costs.macs(narrow_distilled) == 28512 * d**2 + 1093424 * d


def test_whole_heads_cost_what_narrow_heads_cost():
    assert costs.macs(SMALL.at_width(0.5, cut="heads")) == costs.macs(SMALL.at_width(0.5))
    assert costs.params(SMALL.at_width(0.5, cut="heads")) == costs.params(SMALL.at_width(0.5))


# UVC (Yu et al., ICLR 2022)


@pytest.mark.parametrize(
    ("spec", "dense", "classifier", "params"),
    [(SMALL, 4_598_498_304, 384_000, 22_050_664), (BASE, 17_563_060_224, 768_000, 86_567_656)],
)
def test_uvc_dense(spec, dense, classifier, params):
    assert paper(spec, "uvc") == dense
    assert costs.parts(spec)["classifier"] == classifier
    assert costs.macs(spec) == dense + classifier
    assert costs.params(spec) == params


def test_uvc_block_and_embedding():
    without_blocks = SMALL.with_stage()
    assert paper(without_blocks, "uvc") == costs.parts(SMALL)["patch_embed"] == 57_802_752 == 196 * 384 * 768
    assert paper(SMALL.with_stage(*(SMALL.blocks[:1])), "uvc") - 57_802_752 == 378_391_296


@pytest.mark.parametrize(
    ("spec", "blocks", "percent"),
    [(SMALL, 10, 83.5428), (SMALL, 6, 50.6285), (BASE, 10, 83.4430), (BASE, 6, 50.3291), (BASE, 1, 8.9367)],
)
def test_uvc_ratio_of_kept_blocks(spec, blocks, percent):
    kept = spec.with_stage(*(spec.blocks[:blocks] + (BLOCK_GONE,) * (12 - blocks)))
    assert round(100 * paper(kept, "uvc") / paper(spec, "uvc"), 4) == percent
    assert paper(kept, "uvc") == paper(spec.with_stage(*(spec.blocks[:blocks])), "uvc")


def test_uvc_uniformly_pruned():
    """Minus 2 heads, 512 channels, and 16 value dimensions of each of the 4 heads left."""
    pruned = SMALL.with_stage(*[vit_block(attention(64, (48,) * 4), 1024)] * 12)
    assert round(paper(pruned, "uvc") / 1e6, 3) == 2_997.030
    assert round(100 * paper(pruned, "uvc") / paper(SMALL, "uvc"), 4) == 65.1741
    assert costs.macs(pruned) == 2_939_316_480
    assert costs.params(pruned) == 14_371_432


def test_uvc_paper_gives_no_credit_for_value_rows():
    n, c = 197, 384
    pruned = SMALL.with_stage(vit_block(attention(64, (64, 16, 1)), 0))
    a, rho = Fraction(3, 6), Fraction(81, c)
    expected = a * (3 * n * c**2 + n**2 * c) + rho * (n**2 * c + n * c**2)
    assert paper(pruned, "uvc") == 57_802_752 + expected
    assert costs.parts(pruned)["qkv"] == n * c * (192 + 192 + 81)


# DC-ViT (Zhang et al., CVPR 2024)


@pytest.mark.parametrize(
    ("spec", "block", "total"), [(SMALL, 349_191_168, 4_248_783_360), (BASE, 1_395_554_304, 16_863_630_336)]
)
def test_dcvit_dense(spec, block, total):
    n, d = 197, spec.embed_dim
    assert paper(spec, "dcvit") == total
    assert total - paper(spec.with_stage(*(spec.blocks[1:])), "dcvit") == block == 12 * n * d**2 + 8 * n * d
    assert costs.macs(spec, convention="paper") == total  # the default of `convention=paper`


def dcvit_plan(spec: ArchSpec, blocks: int, hidden: int) -> ArchSpec:
    return spec.with_stage(*((vit_block(None, hidden),) * blocks + spec.blocks[blocks:]))


@pytest.mark.parametrize(
    ("dropped", "blocks", "hidden", "params", "ratio"),
    [
        (1, 2, 2304, 79_479_016, 0.917244729),
        (2, 3, 1535, 72_388_837, 0.834489457),
        (3, 4, 1151, 65_301_732, 0.751734186),
    ],
)
def test_dcvit_plans_of_vit_b(dropped, blocks, hidden, params, ratio):
    """The published ratio is that of the target; a plan is the nearest one below it."""
    dense, block = 16_863_630_336, 1_395_554_304
    plan = dcvit_plan(BASE, blocks, hidden)
    target = dense - dropped * block
    assert costs.params(plan) == params
    assert round(target / dense, 9) == ratio
    one_more = dcvit_plan(BASE, blocks, hidden + 1)
    assert paper(plan, "dcvit") <= target < paper(one_more, "dcvit")
    if dropped != 2:  # 1535 is 1535 and a third rounded down; the others come out whole
        assert paper(plan, "dcvit") == target
        assert round(paper(plan, "dcvit") / dense, 9) == ratio


def test_dcvit_does_not_count_the_norm_of_a_removed_attention():
    """With norm1 counted, (2, 2304) would not cost what 11 whole blocks cost."""
    plan = dcvit_plan(BASE, 2, 2304)
    assert paper(plan, "dcvit") == paper(BASE.with_stage(*(BASE.blocks[:11])), "dcvit")
    n, d = 197, 768
    attention = 4 * n * d**2 + 4 * n * d
    without_attention = BASE.with_stage(vit_block(None, 3072), *BASE.blocks[1:])
    assert paper(BASE, "dcvit") - paper(without_attention, "dcvit") == attention


@pytest.mark.parametrize(("blocks", "hidden"), [(2, 1152), (3, 767), (4, 575)])
def test_dcvit_plans_of_vit_s(blocks, hidden):
    target = 4_248_783_360 - (blocks - 1) * 349_191_168
    assert paper(dcvit_plan(SMALL, blocks, hidden), "dcvit") <= target
    assert paper(dcvit_plan(SMALL, blocks, hidden + 1), "dcvit") > target


def test_full_convention_makes_whole_blocks_out_of_whole_blocks():
    """There, dropping n blocks is k = n, h = 0: the empty MLP costs nothing."""
    for dropped in (1, 2, 3):
        gone = BASE.with_stage(*(BASE.blocks[dropped:]))
        assert costs.macs(dcvit_plan(BASE, dropped, 0)) == costs.macs(gone)


# Arguments


def test_parts_have_fixed_names_and_add_up():
    for method in costs.PAPERS:
        parts = costs.parts(BASE, "paper", method)
        assert tuple(parts) == PART_NAMES
        assert sum(parts.values()) == paper(BASE, method)
        assert all(type(count) is int for count in parts.values())


def test_unknown_convention_or_method():
    with pytest.raises(UserError, match=r"^convention: 'half' is not one of full, paper$"):
        costs.macs(SMALL, convention="half")
    with pytest.raises(UserError, match=r"^method: 'tome' has no convention of its own; known: dcvit, practise, uvc, "):
        costs.macs(SMALL, convention="paper", method="tome")


# Against what torch counts


def counted(model: torch.nn.Module, spec: ArchSpec) -> int:
    """MACs of one image that torch sees on the `meta` device, attention taken apart."""
    image = torch.empty(1, spec.in_chans, *spec.img_size, device="meta")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model.eval()(image)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def numel(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


TINY, DISTILLED = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
KINDS = {
    "plain": (TINY, {}),
    "distilled": ("deit_base_distilled_patch16_384", {}),
    "layer scale": ("deit3_small_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 224}),
    "registers, gap, no class token": ("vit_medium_patch16_reg4_gap_256", {}),
    "gap": ("vit_base_patch16_gap_224", {}),
    "gap with a prefix": ("vit_betwixt_patch16_reg4_gap_256", {"class_token": True, "pool_include_prefix": True}),
    "siglip, gap": ("vit_so400m_patch14_siglip_gap_224", {}),
    "qk norm": (TINY, {"qk_norm": True}),
    "pre-norm": ("vit_base_patch32_clip_224", {}),
    "quick gelu": ("vit_base_patch16_clip_quickgelu_224", {}),
    "patch 8": ("vit_small_patch8_224", {}),
    "patch 14, huge": ("vit_huge_patch14_224", {}),
    "mlp ratio not 4": ("vit_giant_patch14_224", {}),
    "head width not 64": ("vit_gigantic_patch14_clip_224", {}),
    "depth 36": ("vit_small_patch16_36x1_224", {}),
    "own shape": (TINY, {"embed_dim": 80, "depth": 3, "num_heads": 5, "mlp_ratio": 2.5, "num_classes": 7}),
    "oblong": (TINY, {"img_size": (96, 160)}),
    "oblong patches": (TINY, {"img_size": (96, 160), "patch_size": (8, 32)}),
    "not a multiple of the patch": (TINY, {"img_size": (100, 164)}),
    "one channel": (DISTILLED, {"in_chans": 1, "img_size": 32, "patch_size": 4}),
    "no biases": (TINY, {"qkv_bias": False, "proj_bias": False}),
    "no classifier": (DISTILLED, {"num_classes": 0}),
    "no position embedding": (TINY, {"pos_embed": "none"}),
    "no final norm": (TINY, {"final_norm": False}),
    "radio": ("vit_base_patch16_radio_v3", {"img_size": 224}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_is_what_torch_counts(kind):
    name, arguments = KINDS[kind]
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    spec = ArchSpec.of(model)
    assert costs.macs(spec) == counted(model, spec)
    assert costs.params(spec) == numel(model)


COMPRESSED = {
    "narrow": SMALL_DISTILLED.at_width(0.25),
    "whole heads": SMALL.at_width(0.5, cut="heads"),
    "pruned": SMALL.with_stage(*[vit_block(attention(64, (48,) * 4), 1024)] * 3),
    "other widths in every block": SMALL.with_stage(
        *(vit_block(attention(8 + n, (5 + n,) * (1 + n)), 100 * n + 7) for n in range(4))
    ),
    "value widths that differ": SMALL.with_stage(
        *(vit_block(attention(64, dims), 32) for dims in [(64, 48, 1), (3, 5), (9, 9, 9)])
    ),
    "no attention": SMALL.with_stage(vit_block(None, 100), vit_block(None, 1536)),
    "no mlp": SMALL.with_stage(vit_block(SMALL.blocks[0].branches[0], None), vit_block(SMALL.blocks[0].branches[0], 3)),
    "no hidden unit": SMALL.with_stage(vit_block(SMALL.blocks[0].branches[0], 0), vit_block(None, 0)),
    "block gone": SMALL.with_stage(BLOCK_GONE, SMALL.blocks[0]).with_options(layer_scale=True, qk_norm=True),
    "no block": SMALL.with_stage(),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("kind", COMPRESSED)
def test_closed_form_of_compressed_networks(kind):
    """Exact but for the zeros that values are padded with, to the width of the queries, where they are weighed."""
    spec = COMPRESSED[kind]
    with torch.device("meta"):
        model = build(spec)
    attentions = [attn for attn, _ in spec.blocks if attn is not None]
    padding = sum(max(attn.query, *attn.pieces) * attn.groups - sum(attn.pieces) for attn in attentions)
    assert counted(model, spec) - costs.macs(spec) == padding * positions(spec)[0] ** 2
    assert costs.executed(spec) == counted(model, spec)
    assert costs.executed_beside(spec) == ({"executed_macs": costs.executed(spec)} if padding else {})
    assert costs.params(spec) == numel(model)


# The command


def test_a_width_may_be_a_fraction(capsys):
    assert cli.main(["cost", TINY, "embed_dim=96", "num_heads=2", "--width", "1/3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == pytest.approx(1 / 3)


@pytest.fixture
def exported(tmp_path) -> str:
    model = build(ArchSpec.of(timm.create_model(TINY, depth=1, img_size=32, num_classes=3)))
    artifact.save(model, tmp_path / "out", {"method": "uvc"})
    return str(tmp_path / "out")


def test_an_export_is_counted_as_by_its_method(exported, capsys):
    counts = []
    for method in ([], ["--method", "uvc"], ["--method", "dcvit"]):
        assert cli.main(["cost", exported, "--convention", "paper", "--json", *method]) == 0
        counts.append(json.loads(capsys.readouterr().out)["macs"])
    assert counts[0] == counts[1] != counts[2]


def test_what_runs_stands_beside_what_is_counted(tmp_path, capsys):
    """Three heads of 64 by hand: 5 tokens, values of 64 + 48 + 1 of 192 columns, 79 of which are zeros."""
    spec = ArchSpec.of(timm.create_model(TINY, depth=1, img_size=32, num_classes=3))
    narrow = spec.with_stage(vit_block(attention(64, (64, 48, 1)), 7))
    assert costs.executed(narrow) - costs.macs(narrow) == 5 * 5 * 79
    artifact.save(build(narrow), tmp_path / "out", {"method": "uvc"})
    assert cli.main(["cost", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["executed_macs"] - document["macs"] == 5 * 5 * 79
    assert cli.main(["cost", str(tmp_path / "out")]) == 0
    assert f"{document['executed_macs']:,} MACs run in convention full" in capsys.readouterr().out
    assert f"| MACs that run, values of narrow heads padded | {document['executed_macs']:,} |" in (
        (tmp_path / "out" / "README.md").read_text()
    )
    assert cli.main(["cost", TINY, "--json"]) == 0
    assert "executed_macs" not in json.loads(capsys.readouterr().out)


def test_an_export_takes_no_timm_arguments(exported, capsys):
    assert cli.main(["cost", exported, "depth=3"]) == 2
    line = f"error: depth=3: {exported} is an exported network, which takes no timm arguments\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([""], "vitc cost: argument MODEL_OR_DIR: '' is no path: it is blank; see 'vitc cost --help'"),
        ([TINY, "--method", "uvc"], "--method: has no effect without --convention paper"),
        ([TINY, "--img-size", "225"], "img_size: 225 is not a multiple of the patch size 16; try 224 or 240"),
        ([TINY, "--width", "half"], "width: 'half' is not a number; give a ratio such as 0.5"),
    ],
)
def test_the_command_refuses(arguments, line, capsys):
    assert cli.main(["cost", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
