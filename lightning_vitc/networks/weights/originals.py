"""Formats of torchvision, and of authors whose names timm does not have."""

from torch import Tensor

from lightning_vitc.networks.weights.renaming import (
    Format,
    Weights,
    X,
    after_the_merge,
    layered,
)

STAGES = 8  # of a Swin Transformer, more than there ever are
MOBILENET = (1, 2, 3, 4, 3, 3, 1)  # blocks in the stages of a MobileNetV2
_NORM = r"(?P<n>weight|bias|running_mean|running_var|num_batches_tracked)"


def _swin_stages() -> dict[str, str | None]:
    """In torchvision a merge is a stage of its own."""
    found: dict[str, str | None] = {}
    for stage in range(STAGES):
        blocks, ours = rf"features\.{2 * stage + 1}\.(?P<i>\d+)\.", rf"layers.{stage}.blocks.\g<i>."
        found |= layered(blocks, ours, {
            "norm1": "norm1", "norm2": "norm2", r"attn\.qkv": "attn.qkv", r"attn\.proj": "attn.proj",
            r"mlp\.0": "mlp.fc1", r"mlp\.3": "mlp.fc2",
        })  # fmt: skip
        found[rf"{blocks}attn\.relative_position_bias_table"] = f"{ours}attn.relative_position_bias_table"
        if stage:
            found |= layered(rf"features\.{2 * stage}\.", f"layers.{stage}.downsample.",
                             {"norm": "norm", "reduction": "reduction"})  # fmt: skip
    return found


def _normed(before: str, after: str, names: dict[str, tuple[str, str]]) -> dict[str, str | None]:
    """Rules for convolutions and the batch norms behind them."""
    found: dict[str, str | None] = {}
    for theirs, (conv, bn) in names.items():
        first, second = theirs.split()
        found[rf"{before}{first}\.weight"] = f"{after}{conv}.weight"
        found[rf"{before}{second}\.{_NORM}"] = rf"{after}{bn}.\g<n>"
    return found


def _mobilenet() -> dict[str, str | None]:
    """In torchvision blocks are numbered through."""
    found = _normed(r"features\.", "", {r"0\.0 0\.1": ("conv_stem", "bn1"), r"18\.0 18\.1": ("conv_head", "bn2")})
    found |= _normed(r"features\.1\.conv\.", "blocks.0.0.", {
        r"0\.0 0\.1": ("conv_dw", "bn1"), "1 2": ("conv_pw", "bn2"),
    })  # fmt: skip
    places = [(stage, block) for stage, depth in enumerate(MOBILENET) for block in range(depth)]
    for number, (stage, block) in enumerate(places[1:], 2):
        found |= _normed(rf"features\.{number}\.conv\.", f"blocks.{stage}.{block}.", {
            r"0\.0 0\.1": ("conv_pw", "bn1"), r"1\.0 1\.1": ("conv_dw", "bn2"), "2 3": ("conv_pwl", "bn3"),
        })  # fmt: skip
    return found | {rf"classifier\.1\.{X}": r"classifier.\g<x>"}


def _split_biases(weights: Weights) -> Weights:
    """DINOv3 has biases of keys that a mask makes zero; timm has those of queries and of values alone."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith(".attn.qkv.bias"):
            query, _, values = value.chunk(3)
            found |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): values}
        else:
            found[name] = value
    return found


_ENCODER = r"encoder\.layers\.encoder_layer_(?P<i>\d+)\."
VIT = Format(
    "torchvision's ViT",
    {
        "class_token": "cls_token",
        r"encoder\.pos_embedding": "pos_embed",
        **layered("", "", {"conv_proj": "patch_embed.proj", r"encoder\.ln": "norm", r"heads\.head": "head"}),
        **layered(_ENCODER, r"blocks.\g<i>.", {
            "ln_1": "norm1", r"self_attention\.out_proj": "attn.proj", "ln_2": "norm2",
            r"mlp\.(?:0|linear_1)": "mlp.fc1", r"mlp\.(?:3|linear_2)": "mlp.fc2",
        }),
        rf"{_ENCODER}self_attention\.in_proj_{X}": r"blocks.\g<i>.attn.qkv.\g<x>",
    },
    models=("vit_*_patch*_224", "vit_*_patch*"),
)  # fmt: skip
SWIN = Format(
    "torchvision's Swin",
    {
        **layered("", "", {r"features\.0\.0": "patch_embed.proj", r"features\.0\.2": "patch_embed.norm",
                           "norm": "norm", "head": "head.fc"}),
        **_swin_stages(),
        r".*\.relative_position_index": None,
    },
    models=("swin_*",),
)  # fmt: skip
MOBILENETV2 = Format("torchvision's MobileNetV2", _mobilenet(), models=("mobilenetv2_*",))
MICROSOFTS_SWIN = Format(
    "Microsoft's Swin",
    {
        r".*\.(?:relative_position_index|attn_mask)": None,
        rf"head\.{X}": r"head.fc.\g<x>",
        r"(?:patch_embed|layers|norm)\..*": r"\g<0>",
    },
    (after_the_merge,), mark=r"layers\.0\.downsample\.reduction\.weight", models=("swin_*",),
)  # fmt: skip
MICROSOFTS_BEIT = Format(
    "Microsoft's BEiT",
    {
        r".*\.relative_position_index": None,
        r"(?:blocks|patch_embed|norm|fc_norm|head)\..*|cls_token|pos_embed": r"\g<0>",
    },
    mark=r"blocks\.\d+\.attn\.relative_position_index", models=("beit*",),
)  # fmt: skip
DINOV3 = Format(
    "DINOv3",
    {
        "storage_tokens": "reg_token",
        r"mask_token|rope_embed\..*|.*\.bias_mask|projectors\..*|local_cls_norm\..*": None,
        r"blocks\.(?P<i>\d+)\.ls(?P<n>[12])\.gamma": r"blocks.\g<i>.gamma_\g<n>",
        **layered(r"blocks\.(?P<i>\d+)\.mlp\.", r"blocks.\g<i>.mlp.", {"w1": "fc1_g", "w2": "fc1_x", "w3": "fc2"}),
        r"(?:blocks|patch_embed|norm|head)\..*|cls_token": r"\g<0>",
    },
    (_split_biases,), mark="storage_tokens", models=("*_dinov3*",),
)  # fmt: skip

FORMATS = (VIT, SWIN, MOBILENETV2, MICROSOFTS_SWIN, MICROSOFTS_BEIT, DINOV3)
