"""Published networks to the last parameter and multiply-accumulate, as counted by their authors' own modules."""

from fractions import Fraction

import pytest
import timm
import torch

from lightning_vitc.networks import costs
from lightning_vitc.networks.blocks import Block, convolutions, mlp
from lightning_vitc.networks.families.mobilenet.shape import mobilenet
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.families.swin.shape import swin
from lightning_vitc.networks.families.t2t.names import NAMES as T2T
from lightning_vitc.networks.families.uniformer.names import NAMES as UNIFORMER
from lightning_vitc.networks.spec import ArchSpec

SWIN_T = swin("swin_t", 96, (2, 2, 6, 2), (3, 6, 12, 24))
SWIN_S = swin("swin_s", 96, (2, 2, 18, 2), (3, 6, 12, 24))
SWIN_B = swin("swin_b", 128, (2, 2, 18, 2), (4, 8, 16, 32))
SWIN_L = swin("swin_l", 192, (2, 2, 18, 2), (6, 12, 24, 48))
RESNET_34, MOBILENET = resnet("resnet34", (3, 4, 6, 3)), mobilenet()
T2T_14 = T2T["t2t_vit_14"]()
UNIFORMER_S, UNIFORMER_PLUS = UNIFORMER["uniformer_small"](), UNIFORMER["uniformer_small_plus"]()


def at(spec: ArchSpec, size: int) -> ArchSpec:
    return spec.with_img_size((size, size))


def width(spec: ArchSpec, ratio: str) -> ArchSpec:
    return spec.at_width(Fraction(ratio))


def without(spec: ArchSpec, *numbers: int) -> ArchSpec:
    return spec.with_blocks([None if number in numbers else block for number, block in enumerate(spec.blocks)])


def hidden_alone(spec: ArchSpec, hidden: int, *numbers: int) -> ArchSpec:
    """As DC-ViT compresses blocks."""
    small = Block((None, mlp(hidden)))
    return spec.with_blocks([small if number in numbers else block for number, block in enumerate(spec.blocks)])


def no_attention(spec: ArchSpec, *numbers: int) -> ArchSpec:
    blocks = enumerate(spec.blocks)
    return spec.with_blocks([block.with_branch(0, None) if number in numbers else block for number, block in blocks])


def halved(spec: ArchSpec) -> ArchSpec:
    return spec.with_blocks([convolutions(b.kind, b.width // 2) for _, b in spec.blocks])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spec", "params", "macs"),
    [
        (T2T_14, 21_545_550, 4_783_468_544),
        (at(T2T_14, 384), 21_691_470, 16_370_148_864),
        (without(T2T_14, 10, 11, 12, 13), 15_633_486, 3_502_294_016),
        (without(T2T_14, *range(7)), 11_199_438, 2_541_413_120),
        (width(T2T_14, ".25"), 1_643_886, 625_051_520),
        (width(T2T_14, ".5"), 5_697_294, 1_502_835_968),
        (width(T2T_14, ".5").with_options(token_width=32, features=16), 5_522_350, 1_322_440_704),
        (width(T2T_14, ".75"), 12_331_182, 2_888_974_976),
        (T2T["t2t_vit_7"](), 4_310_222, 1_146_863_616),
        (T2T["t2t_vit_10"](), 5_889_230, 1_516_328_448),
        (T2T["t2t_vit_12"](), 6_941_902, 1_762_638_336),
        (T2T["t2t_vit_19"](), 39_177_422, 8_479_682_176),
        (T2T["t2t_vit_24"](), 64_105_934, 13_661_874_688),
        (T2T["t2t_vit_t_14"](), 21_541_070, 6_088_721_920),
        (SWIN_T, 28_288_354, 4_490_566_656),
        (at(SWIN_T, 256), 28_288_354, 7_345_441_536),
        (SWIN_S, 49_606_258, 8_740_875_264),
        (at(SWIN_S, 256), 49_606_258, 14_289_817_344),
        (SWIN_B, 87_768_224, 15_430_946_816),
        (at(SWIN_B, 256), 87_768_224, 25_188_045_824),
        (swin("swin_b", 128, (2, 2, 18, 2), (4, 8, 16, 32), 12, 384), 87_903_584, 47_083_134_976),
        (SWIN_L, 196_532_476, 34_475_759_616),
        (without(SWIN_B, 8, 9, 12, 13), 75_147_872, 12_925_358_080),
        (hidden_alone(SWIN_B, 613, 5, 6, 7, 8, 9), 75_142_089, 12_914_118_656),
        (no_attention(SWIN_T, 5, 6), 27_100_042, 4_244_603_904),
        (width(SWIN_T, ".25"), 1_947_802, 309_790_464),
        (width(SWIN_T, ".5"), 7_299_634, 1_161_481_728),
        (width(SWIN_T, ".75"), 16_079_818, 2_555_073_792),
        (width(SWIN_B, ".5"), 22_289_504, 3_939_026_944),
        (UNIFORMER_S, 21_545_256, 3_631_774_208),
        (at(UNIFORMER_S, 256), 21_545_256, 4_824_977_408),
        (at(UNIFORMER_S, 384), 21_545_256, 11_834_667_008),
        (width(UNIFORMER_S, ".25"), 1_468_728, 274_521_728),
        (width(UNIFORMER_S, ".5"), 5_548_680, 971_324_672),
        (width(UNIFORMER_S, ".75"), 12_240_856, 2_090_408_832),
        (UNIFORMER_PLUS, 24_032_552, 4_201_033_472),
        (at(UNIFORMER_PLUS, 256), 24_032_552, 5_578_330_112),
        (at(UNIFORMER_PLUS, 384), 24_032_552, 13_647_675_392),
        (width(UNIFORMER_PLUS, ".25"), 1_626_296, 315_681_728),
        (width(UNIFORMER_PLUS, ".3125"), 2_489_140, 471_120_560),
        (width(UNIFORMER_PLUS, ".5"), 6_173_320, 1_121_081_216),
        (width(UNIFORMER_PLUS, ".75"), 13_642_072, 2_416_198_464),
        (UNIFORMER["uniformer_base"](), 49_776_552, 8_249_019_904),
        (UNIFORMER["uniformer_xs"](), 16_509_264, 1_931_484_160),
        (at(UNIFORMER["uniformer_xs"](), 192), 16_509_264, 1_417_443_840),
        (at(UNIFORMER["uniformer_xxs"](), 128), 10_215_280, 425_000_128),
        (at(UNIFORMER["uniformer_xxs"](), 160), 10_215_280, 657_496_896),
        (at(UNIFORMER["uniformer_xxs"](), 192), 10_215_280, 950_611_648),
        (UNIFORMER["uniformer_xxs"](), 10_215_280, 1_298_853_696),
        (RESNET_34, 21_797_672, 3_663_761_408),
        (at(RESNET_34, 192), 21_797_672, 2_691_878_912),
        (without(RESNET_34, 1, 2), 21_649_704, 3_201_339_392),
        (without(RESNET_34, 1, 2, 4), 21_354_280, 2_970_128_384),
        (halved(RESNET_34), 11_250_792, 1_900_777_472),
        (width(RESNET_34, ".25"), 1_464_248, 251_208_704),
        (width(RESNET_34, ".5"), 5_584_776, 945_571_840),
        (width(RESNET_34, ".75"), 12_362_584, 2_083_089_408),
        (MOBILENET, 3_504_872, 300_774_272),
        (at(MOBILENET, 192), 3_504_872, 221_316_608),
        (width(MOBILENET, ".25"), 1_519_112, 37_201_312),
        (width(MOBILENET, ".35"), 1_677_128, 59_285_808),
        (width(MOBILENET, ".40625"), 1_770_728, 80_695_280),
        (width(MOBILENET, ".4375"), 1_864_840, 88_648_960),
        (width(MOBILENET, ".5"), 1_968_680, 97_131_840),
        (width(MOBILENET, ".5625"), 2_144_536, 147_439_552),
        (width(MOBILENET, ".75"), 2_636_424, 209_069_792),
        (without(MOBILENET, 8), 3_450_600, 290_463_104),
        (without(MOBILENET, 8, 15), 3_130_600, 274_986_944),
        (without(MOBILENET, 2, 4, 7, 11, 14), 2_988_648, 215_566_016),
    ],
)  # fmt: skip
def test_parameters_and_macs(spec: ArchSpec, params: int, macs: int) -> None:
    assert costs.params(spec) == params
    assert costs.macs(spec) == macs


OF_TIMM = [
    ("vit_small_patch16_dinov3", {}, 21_971_944, 6_245_670_912),
    ("vit_small_patch16_dinov3", {"img_size": 224}, 21_971_944, 4_698_488_832),
    ("vit_base_patch16_dinov3", {}, 86_410_216, 23_575_314_432),
    ("vit_base_patch16_dinov3_qkvb", {}, 86_428_648, 23_575_314_432),
    ("vit_large_patch16_dinov3", {}, 304_104_424, 82_369_994_752),
    ("vit_small_plus_patch16_dinov3", {}, 29_068_264, 8_092_999_680),
    ("vit_huge_plus_patch16_dinov3", {}, 841_790_440, 224_776_079_360),
    ("vit_base_patch16_dinov3", {"depth": 6}, 43_887_592, 11_863_538_688),
    ("eva02_tiny_patch14_224", {}, 5_695_144, 1_697_710_080),
    ("eva02_small_patch14_336", {}, 22_129_000, 15_450_537_984),
    ("eva02_base_patch14_448", {}, 87_117_544, 106_886_332_416),
    ("eva02_base_patch16_clip_224", {"num_classes": 512}, 86_263_040, 17_563_453_440),
    ("beit_base_patch16_224", {}, 86_530_984, 17_563_828_224),
    ("beitv2_base_patch16_224", {}, 86_530_984, 17_563_828_224),
    ("beit3_base_patch16_224", {}, 86_659_816, 17_563_828_224),
    ("vit_base_patch16_siglip_224", {"num_classes": 0}, 92_884_224, 17_708_292_096),
    ("vit_base_patch16_siglip_256", {}, 93_699_304, 23_411_275_776),
    ("vit_so400m_patch14_siglip_224", {"num_classes": 0}, 427_680_704, 110_176_948_224),
    ("vit_so400m_patch16_siglip_gap_256", {"num_classes": 0}, 412_649_712, 109_537_394_688),
    ("vit_base_patch14_reg4_dinov2", {"num_classes": 0}, 86_582_016, 152_115_766_272),
    ("vit_giant_patch14_dinov2", {"num_classes": 0}, 1_136_479_232, 1_783_342_958_592),
    ("vit_base_patch16_rope_224", {}, 86_434_792, 17_563_828_224),
    ("vit_base_patch16_rope_mixed_224", {}, 86_444_008, 17_563_828_224),
    ("vit_pe_core_base_patch16_224", {"num_classes": 1024}, 93_673_984, 17_802_438_144),
    ("deit3_base_patch16_224", {}, 86_585_320, 17_563_828_224),
]


@pytest.mark.parametrize(("name", "arguments", "params", "macs"), OF_TIMM)
def test_what_timm_has(name: str, arguments: dict[str, int], params: int, macs: int) -> None:
    with torch.device("meta"):
        spec = ArchSpec.of(timm.create_model(name, **{"num_classes": 1000} | arguments))
    assert costs.params(spec) == params
    assert costs.macs(spec) == macs


@pytest.mark.parametrize(
    ("name", "hidden", "params", "macs"),
    [
        ("vit_small_plus_patch16_dinov3", 768, 18_433_000, 5_322_006_528),
        ("eva02_base_patch14_448", 1024, 58_756_840, 77_866_991_616),
    ],
)
def test_gated_mlps_of_half_their_units(name: str, hidden: int, params: int, macs: int) -> None:
    with torch.device("meta"):
        spec = ArchSpec.of(timm.create_model(name, num_classes=1000))
    narrow = spec.with_blocks([block.with_branch(1, mlp(hidden, kind="glu")) for block in spec.blocks])
    assert costs.params(narrow) == params
    assert costs.macs(narrow) == macs


@pytest.mark.parametrize(
    ("spec", "method", "macs"),
    [
        (SWIN_T, "dcvit", 4_365_327_360),
        (at(SWIN_T, 256), "dcvit", 7_097_530_368),
        (SWIN_S, "dcvit", 8_534_350_848),
        (SWIN_B, "dcvit", 15_155_580_928),
        (without(SWIN_B, 8, 9, 12, 13), "dcvit", 12_686_118_912),
        (hidden_alone(SWIN_B, 613, 5, 6, 7, 8, 9), "dcvit", 12_685_918_208),
        (T2T_14, "dcvit", 4_347_385_088),
        (T2T_14, "uvc", 4_783_084_544),
        (without(T2T_14, 0), "uvc", 4_462_790_912),
        (without(T2T_14, *range(7)), "uvc", 2_541_029_120),
    ],
)
def test_what_the_authors_of_a_method_counted(spec: ArchSpec, method: str, macs: int) -> None:
    assert costs.macs(spec, "paper", method) == macs
