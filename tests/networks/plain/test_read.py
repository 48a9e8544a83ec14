from functools import partial

import pytest
import timm
import torch
from timm.layers import Attention, GluMlp
from torch import nn

from lightning_vitc import costs
from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.modules.activations import ACTIVATIONS
from lightning_vitc.networks.spec import ArchSpec, name_of


def create(name: str, **arguments):
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


def shallow(name: str):
    """Of two blocks, where timm takes their number: what is one of a kind shows in the first."""
    try:
        return create(name, depth=2)
    except (AssertionError, TypeError):
        return create(name)


def test_every_field_of_a_distilled_deit():
    assert ArchSpec.of(create("deit_small_distilled_patch16_224")) == vit(
        name="deit_small_distilled_patch16_224", img_size=(224, 224), patch_size=(16, 16), in_chans=3,
        num_classes=1000, embed_dim=384, blocks=(vit_block(attention(64, (64,) * 6), 1536),) * 12, scale=0.125,
        class_token=True, distilled=True, reg_tokens=0, no_embed_class=False, pos_embed=True, global_pool="token",
        pool_include_prefix=False, qkv_bias=True, qk_norm=False, proj_bias=True, layer_scale=False, pre_norm=False,
        final_norm=True, fc_norm=False, norm_eps=1e-6, act="gelu",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments", "fields"),
    [
        ("deit_tiny_patch16_224", {}, {"distilled": False}),
        ("deit3_small_patch16_224", {}, {"layer_scale": True, "no_embed_class": True}),
        ("vit_base_patch16_clip_quickgelu_224", {}, {"pre_norm": True, "act": "quick_gelu", "norm_eps": 1e-5}),
        ("vit_so400m_patch14_siglip_gap_224", {}, {"class_token": False, "global_pool": "avg"}),
        ("vit_medium_patch16_reg4_gap_256", {}, {"reg_tokens": 4, "class_token": False, "no_embed_class": True}),
        ("vit_small_patch14_reg4_dinov2", {}, {"reg_tokens": 4, "class_token": True}),
        ("vit_base_patch16_gap_224", {}, {"fc_norm": False, "final_norm": True, "prefix_tokens": 0}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, {"fc_norm": True, "final_norm": True}),
        ("vit_tiny_patch16_224", {"global_pool": "max"}, {"global_pool": "max"}),
        ("vit_tiny_patch16_224", {"final_norm": False}, {"fc_norm": False, "final_norm": False}),
        ("vit_tiny_patch16_224", {"pos_embed": "none"}, {"pos_embed": False}),
        ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}, {"qkv_bias": False, "proj_bias": False}),
        ("vit_tiny_patch16_224", {"qk_norm": True}, {"qk_norm": True}),
        ("vit_tiny_patch16_224", {"img_size": (96, 160), "patch_size": (8, 32)}, {"patch_size": (8, 32)}),
        ("vit_tiny_patch16_224", {"num_heads": 6}, {"scale": 32**-0.5}),
        ("vit_tiny_patch16_224", {"act_layer": "relu"}, {"act": "relu"}),
        ("vit_tiny_patch16_224", {"act_layer": "silu"}, {"act": "silu"}),
        ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}, {"act": "gelu_tanh"}),
        ("vit_tiny_patch16_224", {"act_layer": partial(nn.GELU, approximate="tanh")}, {"act": "gelu_tanh"}),
    ],
)  # fmt: skip
def test_fields_of_other_kinds(name, arguments, fields):
    spec = ArchSpec.of(create(name, depth=1, **arguments))
    assert {field: getattr(spec.options, field) for field in fields} == fields


def test_every_activation_is_one_timm_can_build():
    for name, act in ACTIVATIONS.items():
        assert type(timm.layers.get_act_layer(act)()).__name__ == name


class Gated(Attention):
    """A kind of attention of somebody's own."""


REFUSED = {
    "no pooling": ("vit_tiny_patch16_224", {"global_pool": ""}, "it pools by ''"),
    "hybrid": ("vit_base_r50_s16_224", {}, "its stem is a HybridEmbed"),
    "relative positions": ("vit_relpos_small_patch16_224", {}, "a VisionTransformerRelPos"),
    "shared relative positions": ("vit_srelpos_small_patch16_224", {}, "a VisionTransformerRelPos"),
    "another gated mlp": ("vit_tiny_patch16_224", {"mlp_layer": GluMlp}, "its MLP has its gates behind the values"),
    "parallel branches": ("vit_small_patch16_18x2_224", {"depth": 1}, "its blocks are ParallelThingsBlock"),
    "parallel attention and mlp": ("vit_base_patch16_xp_224", {"depth": 1}, "its blocks are ParallelScalingBlock"),
    "res-post-norm": ("vit_base_patch16_rpn_224", {"depth": 1}, "its blocks are ResPostBlock"),
    "differential attention": ("vit_dwee_patch16_reg1_gap_256", {"depth": 1}, "its attention is a DiffAttention"),
    "both": ("vit_dpwee_patch16_reg1_gap_256", {"depth": 1}, "its blocks are DiffParallelScalingBlock"),
    "eva, norms behind": ("eva02_enormous_patch14_clip_224", {"depth": 1}, "its blocks are EvaBlockPostNorm"),
    "shared keys": ("vit_large_patch16_sapiens2", {}, "its queries share keys"),
    "another attention": ("vit_tiny_patch16_224", {"attn_layer": Gated}, "its attention is a Gated"),
    "several norms": ("vit_tiny_patch16_224", {"embed_norm_layer": "rmsnorm"}, "its norms differ"),
    "another norm": ("vit_tiny_patch16_224", {"norm_layer": "simplenorm"}, "its norms are SimpleNorm"),
    "no norm bias": ("vit_tiny_patch16_224", {"norm_layer": partial(nn.LayerNorm, bias=False)}, "have no bias"),
    "activation": ("vit_tiny_patch16_224", {"act_layer": "hard_swish"}, "its activation is Hardswish"),
    "patch dropout": ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "it drops patches or positions"),
    "position dropout": ("vit_tiny_patch16_224", {"pos_drop_rate": 0.1}, "it drops patches or positions"),
    "registers beside distillation": ("deit_tiny_distilled_patch16_224", {"reg_tokens": 4}, "a distillation token"),
    "no class position beside distillation": (
        "deit_tiny_distilled_patch16_224", {"no_embed_class": True}, "a distillation token"
    ),
    "image smaller than a patch": ("vit_tiny_patch16_224", {"img_size": 8}, "its images, (8, 8), are smaller"),
    "no transformer": ("convnext_tiny", {}, "a ConvNeXt"),
    "windows of the second version": ("swinv2_tiny_window8_256", {}, "a SwinTransformerV2"),
    "distilled, not plain": ("levit_128s", {}, "a LevitDistilled"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_by_name_in_one_line(kind):
    name, arguments, why = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        ArchSpec.of(create(name, **arguments))
    message = str(caught.value)
    assert message.startswith(f"model.name: {name} is not supported: ")
    assert why in message
    assert "\n" not in message


def test_gated_attention_is_refused():
    model = create("vit_tiny_patch16_224", depth=1)
    model.blocks[0].attn.gate = nn.Linear(2, 2)
    with pytest.raises(UserError, match="its attention is gated"):
        ArchSpec.of(model)


def test_without_blocks_or_without_a_transformer():
    with pytest.raises(UserError, match=r"^model.name: vit_tiny_patch16_224 has no blocks$"):
        ArchSpec.of(create("vit_tiny_patch16_224", depth=0))
    with pytest.raises(UserError, match=r"^model.name: Linear is not supported: a Linear; "):
        ArchSpec.of(nn.Linear(2, 2))


def test_the_name_is_timms_or_that_of_the_class():
    assert name_of(create("vit_tiny_patch16_224.augreg_in21k", depth=1)) == "vit_tiny_patch16_224"
    assert name_of(timm.models.VisionTransformer(depth=1)) == "VisionTransformer"


CLASSES = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_hybrid", "vision_transformer_relpos",
           "naflexvit")  # fmt: skip  # modules of timm


@pytest.mark.slow
def test_every_vit_of_timm_is_described_or_refused():
    described, unexpected = [], []
    for name in timm.list_models():
        if timm.models.model_entrypoint(name).__module__.rpartition(".")[2] not in CLASSES:
            continue
        model = shallow(name)
        try:
            spec = ArchSpec.of(model)
            described.append(name)
            if costs.params(spec) != sum(parameter.numel() for parameter in model.parameters()):
                unexpected.append((name, "parameters differ"))
        except UserError as error:
            if "\n" in str(error) or name not in str(error):
                unexpected.append((name, str(error)))
        except Exception as error:
            unexpected.append((name, repr(error)))
    assert not unexpected
    assert len(described) == 236


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "count"), [("swin_*", 9), ("resnet[13][84]", 2), ("mobilenetv2_*", 7)])
def test_names_of_the_other_families(pattern, count):
    names = timm.list_models(pattern)
    assert len(names) == count
    for name in names:
        model = shallow(name)
        assert costs.params(ArchSpec.of(model)) == sum(parameter.numel() for parameter in model.parameters())
