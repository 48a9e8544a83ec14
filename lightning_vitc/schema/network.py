"""The section `model`."""

from dataclasses import dataclass, field
from typing import Literal

from lightning_vitc.schema.fields import MISSING, bounded, path, weights, whole_numbers

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")  # of timm, before the place of a model


@dataclass
class ModelConfig:
    """A timm Vision Transformer, or the directory of one that was compressed.

    Keys that are left out keep the value of the named model. A compressed one, which is an exported directory or a
    finished run, takes only `img_size`, `new_head`, `resample_antialias`, `frozen_blocks`, `grad_checkpointing` and the
    rates of dropping.
    """

    name: str = path(MISSING)
    new_head: bool = False  # a new classifier, also where the number of classes is the same
    pretrained: bool | str = weights(False)  # false, true (the hub) or the path of a file
    resample_antialias: bool = True  # of learned positions, where the weights are of another image size; T2T's never
    frozen_blocks: int = bounded(0, ge=0)  # the stem and so many blocks stay as they are pretrained
    grad_checkpointing: bool = False  # compute activations again in the backward pass: less memory, more time
    img_size: int | None = bounded(None, gt=0)
    patch_size: int | None = bounded(None, gt=0)
    in_chans: int | None = bounded(None, gt=0)
    embed_dim: int | list[int] | None = field(default=None, metadata=whole_numbers())  # of UniFormer that of each stage
    depth: int | None = bounded(None, gt=0)
    num_heads: int | list[int] | None = field(
        default=None, metadata=whole_numbers()
    )  # of a network of several stages a number each
    depths: list[int] | None = field(default=None, metadata=whole_numbers())  # blocks of each stage
    window_size: int | list[int] | None = field(default=None, metadata=whole_numbers())  # of windowed attention
    mlp_ratio: float | None = bounded(None, gt=0)
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    norm_eps: float | None = bounded(None, gt=0)  # of every LayerNorm
    act_layer: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] | None = None  # of every MLP
    init_values: float | None = bounded(None, gt=0)
    class_token: bool | None = None
    reg_tokens: int | None = bounded(None, ge=0)
    no_embed_class: bool | None = None
    global_pool: Literal["token", "avg"] | None = None
    drop_rate: float | None = bounded(None, ge=0, lt=1)
    proj_drop_rate: float | None = bounded(None, ge=0, lt=1)
    attn_drop_rate: float | None = bounded(None, ge=0, lt=1)
    drop_path_rate: float | None = bounded(None, ge=0, lt=1)


def is_directory_name(name: str) -> bool:
    """Whether `model.name` is the path of a compressed model; names of timm have no slash but after a source."""
    return "/" in name and not name.startswith(SOURCES)
